package imap

import (
	"bytes"
	"slices"

	"relaygate/authz/line"
)

// Reasons to taint that several rules give.
const (
	reasonEightBit    = "eight-bit octets outside of a login"
	reasonOwing       = "no plain line behind a refusal that can be of an earlier line"
	reasonRefusedHere = "a login with a tag that is used twice was accepted where something was refused"
)

// mayNotSpeak returns a reason to taint if the client's octets come at a moment
// when servers may take them for different things.
func (d *Dialogue) mayNotSpeak() string {
	if len(d.window) == 0 {
		return ""
	}
	c := d.present()
	switch {
	case d.phase == atLiteral:
		return "client sent a literal before the server asked for it"
	case d.phase == serverTurn && c.alone:
		return "client went on inside a SASL exchange"
	case d.phase != atCommand && d.phase != serverTurn, !c.alone || d.next == len(d.window):
		return ""
	case c.verb == startTLS:
		return "client went on before the answer to STARTTLS"
	case c.odd:
		return "client went on behind a command that servers may cut differently"
	}
	return "client went on behind a command that cannot be pipelined"
}

// separated reports whether no server can see the tag and another command: one
// blank behind the tag, before the rest that begins with the command. If there is a
// TAB in the line, that blank must be one, so that only a server to which TAB is a
// blank answers with our tag.
func separated(l *line.Line, tag, rest []byte) bool {
	return len(l.Text) == len(tag)+1+len(rest) && (l.Text[len(tag)] == '\t') == l.Tab()
}

// classify checks the line itself: whether every server cuts it here, and if
// not, whether the acceptance rule can bear it. It returns a reason to taint.
func (d *Dialogue) classify(c *command, l *line.Line, arguments []byte) string {
	long := len(l.Text)+len("\r\n") > maxLine
	switch {
	case l.Tab() && c.verb != login:
		return line.ReasonControl
	case long && !c.logsIn():
		return line.ReasonOverLong
	case l.Eight() && c.verb == authenticate, l.Eight() && c.verb != login && line.Splits(l.Text):
		return reasonEightBit
	}
	// What is left of AUTHENTICATE is one word, and so a refusal at most.
	c.odd = long && c.verb == login || l.Tab() || l.Eight() && (line.Splits(l.Text) || hides(arguments, true, false))
	c.alone = c.alone || c.odd || long || l.Eight()
	if d.inStep() {
		d.bareLF, d.refusedHere = l.BareLF(), false
		if !c.logsIn() && hides(arguments, false, false) || c.logsIn() && hidesTagged(l.Text, arguments, c.tag.bytes()) {
			return line.ReasonHidden
		}
		c.hides = c.logsIn() && hides(arguments, d.refusedLast, false)
		return ""
	}
	switch {
	case hides(arguments, c.logsIn(), false):
		return line.ReasonHidden
	case c.odd || !d.lockStep && (long || l.Eight()):
		return d.piped("a line in a pipeline that servers may cut differently")
	case c.alone && !d.lockStep:
		return "a command in a pipeline that cannot be pipelined"
	case d.bareLF && !l.BareLF():
		return "mixed line ends in a pipeline"
	}
	d.bareLF = d.bareLF || l.BareLF()
	return ""
}

// piped is why a command is not believed that does not stand in step: the reason if it
// stands in a pipeline of the client's.
func (d *Dialogue) piped(reason string) string {
	if d.lockStep {
		return reasonOwing
	}
	return reason
}

// hides reports whether some part of a line can be a command of its own, with the
// end of a word for its tag. A server that lost the beginning would run it, as one would to
// which each segment is a line. rest is what stands behind the line's tag and command. With
// ends, the end of a word counts for a command too: one that lost the middle would run it
// with the line's tag. With more, arguments may follow rest, as behind a literal.
func hides(rest []byte, ends, more bool) bool {
	for len(rest) > 0 {
		var word []byte
		if word, rest = line.Word(rest); early(word, ends, !more && oneAtMost(rest)) {
			return true
		}
	}
	return false
}

// hidden reports whether a literal of c, or what stands behind one, can be answered as a
// line of its own that bears the tag of c. If c is not odd, the server asked for the literal.
// With more, arguments may follow.
func (d *Dialogue) hidden(c *command, text []byte, more bool) bool {
	return c.odd && hides(text, true, more) || d.owing && bytes.Contains(text, c.tag.bytes())
}

// oneAtMost reports whether what stands behind a word is one argument at most, and no
// literal: LOGIN has two.
func oneAtMost(rest []byte) bool {
	return bytes.IndexByte(rest, ' ') < 0 && bytes.IndexByte(rest, '{') < 0
}

// hidesTagged is hides for a command whose answer must bear a tag. text is the whole
// line.
func hidesTagged(text, rest, tag []byte) bool {
	last := bytes.TrimRight(text[:len(text)-len(rest)], " ")
	for len(rest) > 0 {
		var word []byte
		if word, rest = line.Word(rest); bytes.HasSuffix(last, tag) && early(word, false, oneAtMost(rest)) {
			return true
		}
		last = word
	}
	return false
}

// bare are the commands of those that need no argument: a word may begin with one, where
// the line could be cut behind it.
var bare = [...]string{"NOOP", "CAPABILITY", "LOGOUT", "STARTTLS", "LANGUAGE", "COMPARATOR"}

// soonFirst and soonLast are the places in names of the commands that a server may answer
// positively where nobody has logged in, by the octets with which they begin and end.
var soonFirst, soonLast = func() (first, last [256][]int) {
	add := func(by *[256][]int, octet byte, i int) {
		by[octet] = append(by[octet], i)
		by[octet|0x20] = append(by[octet|0x20], i) // all are letters
	}
	for i := range names[:beforeLogin] {
		name := names[i].name
		add(&first, name[0], i)
		add(&last, name[len(name)-1], i)
	}
	return first, last
}()

// early reports whether a word, or its beginning, or with ends its end, is a command that a
// server may answer positively, or begin, where nobody has logged in. LOGIN is none if at
// most one argument stands behind it.
func early(word []byte, ends, short bool) bool {
	if len(word) == 0 {
		return false
	}
	for _, i := range soonFirst[word[0]] {
		name := names[i].name
		if short && names[i].verb == login || len(word) < len(name) || !line.Is(word[:len(name)], name) {
			continue
		}
		if len(word) == len(name) || slices.Contains(bare[:], name) {
			return true
		}
	}
	if !ends {
		return false
	}
	for _, i := range soonLast[word[len(word)-1]] {
		at := len(word) - len(names[i].name)
		if at > 0 && line.Is(word[at:], names[i].name) && (!short || names[i].verb != login) {
			return true
		}
	}
	return false
}

// doubt says why the positive answer to a login command c proves no login, else "".
func (d *Dialogue) doubt(c *command, r *response) string {
	switch {
	case d.bye:
		return "a login was accepted after BYE"
	case turnsAway(r.text):
		return "a login was accepted in words that refuse it"
	case c.malformed:
		return "positive answer to a malformed login"
	case c.twin && d.refusedHere:
		return reasonRefusedHere
	case c.verb == authenticate && d.exchange.Doubt() != "":
		return d.exchange.Doubt()
	case d.proved.Result != 0:
		return "two logins were accepted"
	}
	return ""
}

// turnsAway reports whether an OK says what a server of Microsoft's was seen to say to a
// login, behind which it knew nobody.
func turnsAway(text []byte) bool {
	_, said := line.Word(text)
	return line.Is(bytes.TrimSuffix(said, []byte{'.'}), "UNABLE TO AUTHENTICATE")
}

// spent reports whether a server that is asked to do c can but refuse it, or let
// somebody in: c is a login, and no part of it is left to be asked for.
func (d *Dialogue) spent(c *command) bool {
	return c.verb == login || c.verb == authenticate && d.exchange.Spent()
}

// logsIn reports whether a positive answer to c would prove a login.
func (c *command) logsIn() bool { return c.verb == login || c.verb == authenticate }

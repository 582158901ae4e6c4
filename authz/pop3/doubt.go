package pop3

import (
	"bytes"
	"strings"

	"relaygate/authz/line"
)

// Reasons to taint that are named in several places.
const (
	reasonRefusedHere = "a login was accepted in a pipeline of which something was refused"
	reasonList        = "multi-line answer is too long"
)

// Bounds are the reasons that say of a bound that it was hit, besides line's and sasl's.
var Bounds = []string{reasonList}

// wentOn is the reason why bytes behind c end the belief.
func wentOn(c *command) string {
	switch {
	case c.verb == stls:
		return "client went on before the answer to STLS"
	case c.verb == auth:
		return "client went on inside a SASL exchange"
	case c.odd:
		return "client went on behind a line that servers may cut differently"
	}
	return "client went on behind a command that cannot be pipelined"
}

// classify checks the line itself: whether every server cuts it here, and if
// not, whether the acceptance rule can bear it. It returns a reason to taint.
func (d *Dialogue) classify(c *command, l *line.Line, argument []byte) string {
	length := len(l.Text) + len("\r\n")
	login := c.verb == pass || c.verb == apop || c.verb == auth
	named := c.verb == pass || c.verb == user || d.announces(c) ||
		login && bytes.Count(l.Text, []byte{' '}) <= 3
	switch {
	case l.Tab():
		return line.ReasonControl
	case length > maxLine && !login, length > maxShort && !named:
		return line.ReasonOverLong
	case c.verb == unknown && bytes.IndexByte(l.Text, '\\') >= 0:
		return "an escape in an unknown command"
	case l.Eight() && (c.verb == auth || !login && c.verb != user):
		return "eight-bit octets outside of a login"
	case c.verb == user && l.Eight() && line.Splits(l.Text):
		return "user name with a character that can end a line"
	case len(d.waiting) > maxPipeline:
		return line.ReasonTooMany
	}
	// What is left of AUTH is base64, and so a refusal at most.
	c.odd = length > maxLine && c.verb != auth || l.Eight() && line.Splits(l.Text)
	c.alone = length > maxLine || l.Eight()
	whole := d.inStep && d.atOnce(l)
	if !whole && !d.announces(c) {
		c.holds = holds(c.verb, l.Text, argument)
	}
	if d.inStep {
		d.bareLF, d.refusedHere = l.BareLF(), false
		// One word of USER is exempt: it is a name like "lang", and no login yet.
		name := c.verb == user && bytes.IndexByte(argument, ' ') < 0 || d.announces(c)
		if c.hidden = !whole && !name && c.hides(l.Text, argument); c.hidden && !login {
			return line.ReasonHidden
		}
		if c.hidden {
			c.odd, c.alone, c.holds = true, true, max(c.holds, 1)
		}
		return ""
	}
	switch {
	case c.hides(l.Text, argument):
		return line.ReasonHidden
	case c.odd || l.Eight() || length > maxShort && !d.announces(c):
		return "a line in a pipeline that servers may cut differently"
	case !c.pipelined:
		return "a command in a pipeline that cannot be pipelined"
	case c.verb == user && d.naming():
		return "another user name in a pipeline"
	case d.bareLF && !l.BareLF():
		return "mixed line ends in a pipeline"
	}
	d.bareLF = d.bareLF || l.BareLF()
	d.owed, c.holds = d.owed+c.holds, 0 // of a login, too: what comes before can hold its beginning
	return ""
}

// atOnce reports whether every server reads all of a line at once, if nothing stands before
// it. None is known that reads fewer octets than are in a short one.
func (d *Dialogue) atOnce(l *line.Line) bool {
	return d.whole && len(l.Text)+len("\r\n") <= maxShort
}

// naming reports whether the server has a user name, or may get one, when it comes to the
// present line.
func (d *Dialogue) naming() bool {
	for i := len(d.waiting) - 2; i >= 0; i-- {
		if verb := d.waiting[i].verb; verb == user || verb == pass {
			return verb == user
		}
	}
	return d.named
}

// first and last are the commands that holds and hides look for, by the octets with which
// they begin and end: those that can be answered positively before a login.
var first, last = func() (first, last [256][]int) {
	add := func(by *[256][]int, octet byte, i int) {
		by[octet] = append(by[octet], i)
		if small := octet | 0x20; small != octet {
			by[small] = append(by[small], i)
		}
	}
	for i := range commands {
		if c := &commands[i]; !c.kind.transaction && c.kind.verb != pass {
			add(&first, c.name[0], i)
			add(&last, c.name[len(c.name)-1], i)
		}
	}
	return first, last
}()

// holds counts the commands that could be answered positively before a login, if the line
// were cut in front of each. A name that is one from its first octet is none in it: USER
// without a name is refused. Nor is AUTH in AUTH, as the mechanism XOAUTH2 has it.
func holds(of verb, text, argument []byte) (n int) {
	if of == user {
		text = argument
	}
	for at := 1; at < len(text); at++ {
		for _, i := range first[text[at]] {
			c := &commands[i]
			end := at + len(c.name)
			if end > len(text) || !line.Is(text[at:end], c.name) {
				continue
			}
			if c.kind.verb == user && end == len(text) || c.kind.verb == auth && of == auth {
				continue
			}
			n++
		}
	}
	return n
}

// hides reports whether some end of the line is a command of its own, and one that
// can be answered positively before a login. A server that lost the beginning
// would run it.
func (c *command) hides(text, argument []byte) bool {
	begins, rest := c.verb == unknown, argument
	if begins {
		rest = bytes.TrimLeft(text, " ")
	}
	for ; len(rest) > 0; begins = false {
		var word []byte
		if word, rest = line.Word(rest); len(word) == 0 {
			continue
		}
		for _, i := range last[word[len(word)-1]] {
			name := commands[i].name
			at := len(word) - len(name)
			if at < 0 || begins && at == 0 || !line.Is(word[at:], name) {
				continue
			}
			if commands[i].kind.verb != user || len(rest) > 0 {
				return true
			}
		}
	}
	return false
}

// spent reports whether a server answers c with a refusal, or shows that somebody has
// logged in: it does not wait for more of it, and nobody else has anything accepted.
func (d *Dialogue) spent(c *command) bool {
	switch c.verb {
	case pass, apop, empty:
		return true
	case auth:
		return d.exchange.Spent()
	}
	return c.transaction
}

// doubt says why a positive answer to c is no login, else "".
func (d *Dialogue) doubt(c *command) string {
	switch {
	case c.malformed:
		return "positive answer to a malformed login"
	case d.refusedHere:
		return reasonRefusedHere
	case d.more && len(d.waiting) == 1:
		return line.ReasonSurplus
	case c.verb == auth && d.exchange.Doubt() != "":
		return d.exchange.Doubt()
	case c.verb == auth && d.exchange.Unasked():
		return "AUTH was answered positively before the server asked for anything, which can be an invitation"
	case c.verb != pass && d.named:
		return "a login was accepted where PASS was due: the answer can be a goodbye"
	case c.verb == apop && !d.stamp:
		return "APOP was accepted although the greeting had no time stamp"
	case c.verb == apop && c.user == "", c.verb == pass && d.user == "":
		return "a login was accepted and no user name was"
	case c.verb == apop && namesServer(c.user), c.verb == pass && namesServer(d.user):
		return "a user name with a colon can name the server that was asked, and that can be the client's own"
	case d.proved.Result != 0:
		return "two logins were accepted"
	}
	return ""
}

// settled reports whether no command behind waiting[0] can be the one that the
// server just answered with text: the rule of the package comment.
func (d *Dialogue) settled(text []byte) bool {
	if !d.client.Empty() || d.lastOwed || d.owed > 0 || d.waiting[0].hidden {
		return false
	}
	for i := range d.waiting[1:] {
		c := &d.waiting[1+i]
		lostToo := c.verb == quit && d.basic && !d.refused && c.chunk == d.windowChunk && welcomes(text)
		if !c.transaction && !lostToo {
			return false
		}
	}
	return true
}

// namesServer reports whether a user name may be "host:name". The ipop3d of UW IMAP
// and POPFile then log in at that host, which a stranger can have answer as he likes.
func namesServer(user string) bool { return strings.IndexByte(user, ':') >= 0 }

// welcomes reports whether text is what the servers say to a login that are known
// to lose QUIT behind it, Courier, solid-pop3d and perdition, and none to QUIT: all of
// the text, as there are servers that repeat a user name.
func welcomes(text []byte) bool {
	_, said := line.Word(text)
	said = bytes.TrimSuffix(said, []byte{'.'})
	return line.Is(said, "LOGGED IN") || line.Is(said, "AUTHENTICATION SUCCESSFUL") || line.Is(said, "YOU ARE SO IN")
}

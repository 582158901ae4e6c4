package pop3

import (
	"bytes"

	"relaygate/authz"
	"relaygate/authz/line"
)

// readServer takes what the server sent. Every session has a greeting: the last one is
// known.
func (d *Dialogue) readServer(b []byte) {
	if d.greetingCut {
		return
	}
	greets := d.awaitsGreeting() && d.server.Empty()
	if greets {
		if stamp, again := d.answers.Greeted(b); again {
			d.stamp = stamp
			d.answered()
			return
		}
	}
	d.lines(b)
	if greets && !d.done && d.server.Empty() {
		d.answers.Greets(b, d.stamp)
	}
}

// lines takes lines and the beginning of one.
func (d *Dialogue) lines(b []byte) {
	for len(b) > 0 && !d.done {
		if d.server.Empty() {
			d.linePiece = d.pieces
		}
		l, rest, state := d.server.Next(b)
		if state != line.Complete {
			if reason := d.server.Doubt(state); reason != "" {
				d.taint(reason)
			}
			return
		}
		b = rest
		d.more = len(b) > 0
		d.line(l.Text)
		d.server.Wipe()
	}
}

// line takes one line of the server.
func (d *Dialogue) line(text []byte) {
	if len(d.waiting) == 0 {
		d.taint(line.ReasonSurplus)
		return
	}
	c := &d.waiting[0]
	if d.listLines > 0 {
		d.list(text)
		return
	}
	if c.piece > d.linePiece || d.turn >= clientTurn && !d.client.Empty() {
		d.taint("answer began before its command ended")
		return
	}
	switch statusOf(text) {
	case positive:
		d.positive(c, text)
	case negative:
		d.negative(c, text)
	case challenge:
		d.challenge(c)
	default:
		d.taint("answer is neither +OK nor -ERR")
	}
}

// cut takes note that server octets are missing behind those that came. What
// the server sent before it had any octet of the client is greeting and no more.
// And "+OK " decides, whatever text follows it. Anything else is doubt, and so
// is what would come after: nobody knows where the next line begins.
func (d *Dialogue) cut() {
	if d.done || d.greetingCut {
		return
	}
	untouched := d.pieces == 0 && d.client.Empty()
	if text := d.server.Begun(); bytes.HasPrefix(text, []byte("+OK ")) && len(d.waiting) == 1 && d.listLines == 0 {
		greets := d.waiting[0].verb == greeting
		d.more = false
		d.line(text)
		d.greetingCut = greets && untouched
	}
	d.server.Wipe()
	if !d.done && !d.greetingCut {
		d.taint("a server line was cut by the snap length")
	}
}

// list takes a line of a multi-line answer (RFC 1939 §3).
func (d *Dialogue) list(text []byte) {
	d.listLines++
	switch {
	case len(text) == 1 && text[0] == '.':
		d.listLines = 0
		d.lastOwed = d.lastOwed && (d.proved.Result == 0 || !d.waiting[0].transaction)
		d.answered()
	case d.listLines > maxListLines:
		d.taint(reasonList)
	}
}

// challenge takes the server's move in the SASL exchange (RFC 5034 §4).
func (d *Dialogue) challenge(c *command) {
	switch {
	case c.verb != auth || d.turn != serverTurn:
		d.taint(line.ReasonSurplus)
	case d.exchange.Cancelled():
		d.taint("challenge after the client cancelled")
	case d.askOwed:
		d.taint("challenge behind two refusals in a row, which can be one given twice")
	case len(d.waiting) > 1 || !d.client.Empty():
		d.taint(wentOn(c))
	default:
		d.turn, d.lastOwed = clientTurn, false
	}
}

func (d *Dialogue) negative(c *command, text []byte) {
	if c.verb == greeting {
		d.taint("the greeting refuses service")
		return
	}
	var l authz.Login
	if d.login(c, &l) {
		l.Result, l.Reason = authz.Failure, "the server refused the login"
		l.Answer = d.answers.Negative(text)
		d.report(&l)
	}
	again := d.refusedLast
	d.refused, d.refusedLast, d.lastOwed, d.refusedHere = true, true, true, d.refusedHere || c.verb != empty
	if d.proved.Result != 0 && d.refusedHere {
		d.taint(reasonRefusedHere)
		return
	}
	switch {
	case c.odd:
		d.taint("refused line that servers may cut differently")
		return
	case c.piece == 1 && c.verb != user, d.spent(c): // nothing else can be owed
	case c.shape == multi:
		d.user = ""
	case c.verb == auth && d.exchange.Challenged():
		d.askOwed = d.askOwed || again
	default:
		d.owed++
	}
	if c.verb == user || c.verb == pass {
		// In a pipeline the refusal can be another's that came late, and the name stands.
		d.user, d.named = "", c.verb == user && !d.inStep
	}
	if c.verb == auth {
		d.endExchange()
	}
	d.answered()
}

func (d *Dialogue) positive(c *command, text []byte) {
	d.refusedLast = false
	if d.proved.Result != 0 && c.transaction && d.owed > 0 {
		d.owed--
	}
	switch {
	case c.verb == greeting:
		d.stamp = hasStamp(text)
	case c.verb == unknown:
		d.taint("positive answer to an unknown command")
		return
	case c.verb == xclient && !d.announces(c):
		d.taint("a proxy speaks for the client (XCLIENT was accepted)")
		return
	case c.verb == xclient && c.client.IsValid():
		d.speaksFor(c)
		return
	case c.verb == empty:
		d.taint("positive answer to an empty line")
		return
	case c.verb == stls:
		d.encrypted("STLS was accepted")
		return
	case c.shape == dropList && !isDropList(text):
		d.taint("answer has not the shape of its command")
		return
	case c.shape == multi:
		d.listLines = 1
		return
	case c.verb == user:
		d.user, d.named = c.user, true
	case c.verb == auth && d.turn == serverTurn && d.exchange.Unsaid():
		d.turn = invited
		return
	case c.verb == pass, c.verb == apop, c.verb == auth:
		d.loggedIn(c, text)
		return
	}
	d.lastOwed, d.askOwed = false, false
	d.answered()
}

// loggedIn takes the positive answer to a login command.
func (d *Dialogue) loggedIn(c *command, text []byte) {
	if reason := d.doubt(c); reason != "" {
		d.taint(reason)
		return
	}
	l := authz.Login{Result: authz.Success, Answer: d.answers.Positive(text)}
	d.login(c, &l)
	if d.settled(text) {
		d.report(&l)
		return
	}
	d.proved = l
	d.endExchange()
	d.answered()
}

// login notes in l who logs in with the command c, and how; false for other
// commands.
func (d *Dialogue) login(c *command, l *authz.Login) bool {
	switch c.verb {
	case pass:
		l.Mechanism, l.User = "USER", d.user
	case apop:
		l.Mechanism, l.User = "APOP", c.user
	case auth:
		id := d.exchange.Identity()
		l.Mechanism, l.User, l.AuthzID, l.Anonymous = id.Mechanism, id.User, id.AuthzID, id.Anonymous
	default:
		return false
	}
	return true
}

func (d *Dialogue) endExchange() {
	d.exchange.Reset()
	d.turn = noExchange
}

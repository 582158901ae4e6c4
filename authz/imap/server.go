package imap

import (
	"bytes"

	"relaygate/authz"
	"relaygate/authz/line"
)

// readServer takes what the server sent. Every session has a greeting, and it is long:
// the last one is known.
func (d *Dialogue) readServer(b []byte) {
	if d.greetingCut {
		return
	}
	if d.framed.state != unframed {
		b, ok := d.framed.next(b)
		if !ok {
			d.taint("the server's channels cannot be told apart")
			return
		}
		d.responses(b)
		clear(b) // a server can repeat what it refuses
		return
	}
	greets := d.awaitsGreeting() && d.server.Empty()
	if greets {
		if _, again := d.answers.Greeted(b); again {
			d.answered()
			return
		}
	}
	d.responses(b)
	if greets && !d.done && d.server.Empty() {
		d.answers.Greets(b, false)
	}
}

// responses takes lines and the beginning of one.
func (d *Dialogue) responses(b []byte) {
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
		d.respond(l.Text)
		d.server.Wipe()
		if d.framed.begins() {
			d.readServer(b)
			return
		}
	}
}

// cut takes note that server octets are missing behind those that came. What
// the server sent before it had any octet of the client is greeting and no more.
// And the status with the space behind it decides, whatever text follows.
// Anything else is doubt, and so is what would come after: nobody knows where
// the next line begins.
func (d *Dialogue) cut() {
	if d.done || d.greetingCut {
		return
	}
	untouched := d.pieces == 0 && d.client.Empty() && d.phase == atCommand
	if text := d.server.Begun(); bytes.Count(text, []byte(" ")) >= 2 && d.next == len(d.window)-1 {
		greets := d.window[d.next].verb == greeting
		d.respond(text)
		d.greetingCut = greets && untouched
	}
	d.server.Wipe()
	if !d.done && !d.greetingCut {
		d.taint("a server line was cut by the snap length")
	}
}

// respond takes one server line.
func (d *Dialogue) respond(text []byte) {
	if endsInLiteral(text) {
		d.taint("literal from the server before a login")
		return
	}
	var r response
	r.parse(text)
	if d.awaitsGreeting() {
		d.greet(&r)
		return
	}
	if r.status == untagged {
		d.untagged(&r)
		return
	}
	if r.status == noStatus || d.next == len(d.window) {
		d.taint(line.ReasonSurplus)
		return
	}
	c := &d.window[d.next]
	last := d.next == len(d.window)-1
	if last && d.midway() || c.piece > d.linePiece {
		d.taint("answer began before its command ended")
		return
	}
	if r.status == challenge {
		d.challenge(c)
		return
	}
	if !bytes.Equal(r.tag, c.tag.bytes()) {
		d.taint(line.ReasonSurplus)
		return
	}
	d.tagged(c, &r)
}

// midway reports whether the client has sent a part of a piece that belongs to
// the present command.
func (d *Dialogue) midway() bool {
	switch d.phase {
	case inLiteral, atText:
		return true
	case clientTurn:
		return !d.client.Empty()
	}
	return false
}

// greet takes the greeting (RFC 9051 §7.1, §7.1.4, §7.1.5).
func (d *Dialogue) greet(r *response) {
	switch {
	case r.status == untagged && r.is("OK"):
		d.answered()
	case r.status == untagged && r.is("PREAUTH"):
		d.taint("the server greets with PREAUTH: nobody proved an identity")
	case r.status == untagged && r.is("BYE"):
		d.taint("the greeting refuses service")
	default:
		d.taint("the connection does not begin with a greeting")
	}
}

// untagged takes a line that answers no command by itself.
func (d *Dialogue) untagged(r *response) {
	switch {
	case r.is("BYE"):
		d.bye = true
	case r.is("MULTIPLEX") && d.Trusted() && d.next < len(d.window) && d.window[d.next].verb == id:
		d.framed.state = inHeader
	case r.is("PREAUTH"):
		d.taint("PREAUTH after the greeting")
	case r.is("BAD"):
		// RFC 9051 §7.1.3: the server cannot say which command it means.
		d.taint("the server could not make out a command")
	case r.is("NO") && d.next < len(d.window) && d.window[d.next].odd:
		d.taint("the server complains about a line that servers may cut differently")
	}
}

// challenge takes a continuation request (RFC 9051 §7.6).
func (d *Dialogue) challenge(c *command) {
	switch {
	case d.next != len(d.window)-1 || !d.client.Empty():
		// Servers would read what is behind c as its continuation.
		d.taint("client went on behind a command that the server continues")
	case d.phase == atLiteral:
		d.enterLiteral()
	case d.phase == serverTurn && c.verb == authenticate && !d.exchange.Cancelled():
		d.phase = clientTurn
	default:
		d.taint(line.ReasonSurplus)
	}
}

// tagged takes the answer to command c.
func (d *Dialogue) tagged(c *command, r *response) {
	if d.refusedLast = !r.is("OK"); !d.refusedLast {
		d.accepted(c, r)
		return
	}
	var l authz.Login
	if d.login(c, &l) {
		l.Result, l.Reason = authz.Failure, "the server refused the login"
		l.Answer = d.answers.Negative(r.text)
		d.report(&l)
	}
	d.refusedHere = true
	if d.proved.Result != 0 {
		d.taint(reasonRefusedHere)
		return
	}
	switch {
	case c.odd, d.phase == atLiteral && d.next == len(d.window)-1:
		d.taint("refused command that servers may cut differently")
		return
	case c.hides:
		d.taint(reasonOwing)
		return
	}
	d.owing = d.owing || c.piece > 1 && !d.spent(c) // before the first line nothing was said
	d.endCommand(c)
}

// accepted takes the positive answer to command c.
func (d *Dialogue) accepted(c *command, r *response) {
	switch {
	case d.phase == atLiteral && d.next == len(d.window)-1:
		d.taint("positive answer to a command that is not complete")
	case c.verb == unknown:
		d.taint("positive answer to an unknown command")
	case c.verb == modal:
		d.taint("the server changed its mode before a login")
	case c.verb == startTLS:
		d.encrypted("STARTTLS was accepted")
	case c.verb == login, c.verb == authenticate:
		d.loggedIn(c, r)
	case c.verb == id && c.client.IsValid():
		d.speaksFor(c)
	default:
		d.owing = d.owing && c.twin
		d.endCommand(c)
	}
}

// loggedIn takes the positive answer to a login command.
func (d *Dialogue) loggedIn(c *command, r *response) {
	if reason := d.doubt(c, r); reason != "" {
		d.taint(reason)
		return
	}
	l := authz.Login{Result: authz.Success, Answer: d.answers.Positive(r.text)}
	d.login(c, &l)
	closed := d.next == len(d.window)-1 && d.client.Empty()
	if alone := !c.twin && !bytes.Contains(d.client.Begun(), c.tag.bytes()); closed || alone {
		d.report(&l)
		return
	}
	d.proved = l
	d.endCommand(c)
}

// login notes in l who logs in with the command c, and how; false for other
// commands.
func (d *Dialogue) login(c *command, l *authz.Login) bool {
	switch c.verb {
	case login:
		l.Mechanism, l.User = "LOGIN", c.user
		if d.phase == atLiteral && d.arguments.count > 0 {
			l.User = string(d.arguments.user)
		}
	case authenticate:
		id := d.exchange.Identity()
		l.Mechanism, l.User, l.AuthzID, l.Anonymous = id.Mechanism, id.User, id.AuthzID, id.Anonymous
	default:
		return false
	}
	return true
}

// endCommand forgets what belonged to the answered command c.
func (d *Dialogue) endCommand(c *command) {
	if c.verb == authenticate {
		d.exchange.Reset()
		d.phase = atCommand
	}
	d.answered()
}

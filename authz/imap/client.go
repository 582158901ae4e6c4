package imap

import (
	"bytes"

	"relaygate/authz/line"
	"relaygate/authz/proxy"
	"relaygate/authz/sasl"
)

// readClient takes what the server's kernel acknowledged.
func (d *Dialogue) readClient(b []byte) {
	if d.pieces == 0 && d.client.Empty() && line.HelloTLS(b) {
		d.encrypted(line.ReasonHello)
		return
	}
	for len(b) > 0 && !d.done {
		if reason := d.mayNotSpeak(); reason != "" {
			d.taint(reason)
			return
		}
		if d.phase == inLiteral {
			b = d.octets(b)
			continue
		}
		if d.client.Empty() && (d.phase == atCommand || d.phase == serverTurn) {
			d.lockStep = d.idle()
		}
		l, rest, state := d.client.Next(b)
		if state != line.Complete {
			if reason := d.client.Doubt(state); reason != "" {
				d.taint(reason)
			}
			return
		}
		b = rest
		d.pieces++
		d.line(&l)
		d.client.Wipe()
	}
}

// line takes one line of the client.
func (d *Dialogue) line(l *line.Line) {
	switch d.phase {
	case atText:
		d.text(l, l.Text)
	case clientTurn:
		d.response(l)
	default:
		d.command(l)
	}
}

// command takes the first line of a command.
func (d *Dialogue) command(l *line.Line) {
	if len(d.window) >= maxWindow {
		d.taint(line.ReasonTooMany)
		return
	}
	first, rest := line.Field(l.Text)
	c := d.wait()
	c.malformed = !separated(l, first, rest)
	word, rest := line.Field(rest)
	c.verb = lookup(word)
	if !c.tag.set(first) {
		d.taint("a line does not begin with a tag")
		return
	}
	if c.verb == id {
		var ok bool
		if c.client, ok = originating(rest); !ok {
			d.taint(proxy.ReasonNoAddress)
			return
		}
	}
	c.alone = c.verb == unknown || c.verb == modal || c.verb == startTLS
	if reason := d.classify(c, l, rest); reason != "" {
		d.taint(reason)
		return
	}
	for i := range d.window[:len(d.window)-1] {
		// A server that lost where one begins can answer it with the end of its tag.
		if w := &d.window[i]; w.verb != greeting && w.tag.ends(&c.tag) {
			w.twin, c.twin = true, true
		}
	}
	d.literals = 0
	d.arguments.begin(c.verb == login)
	if c.verb == authenticate {
		d.authenticate(rest)
		return
	}
	d.text(l, rest)
}

// wait returns room for a command that waits for its answer.
func (d *Dialogue) wait() *command {
	n := len(d.window)
	if n == cap(d.window) {
		d.window = append(d.window, command{})
	}
	d.window = d.window[:n+1] // behind its end it is always empty
	return &d.window[n]
}

// text takes arguments up to the end of a line, which is the end of the
// command unless a literal follows.
func (d *Dialogue) text(l *line.Line, arguments []byte) {
	c := d.present()
	if d.phase == atText {
		switch {
		case l.Tab():
			d.taint(line.ReasonControl)
			return
		case l.Eight() && c.verb != login:
			d.taint(reasonEightBit)
			return
		case d.hidden(c, arguments, false):
			d.taint(line.ReasonHidden)
			return
		case l.Eight() || len(l.Text)+len("\r\n") > maxLine:
			c.odd, c.alone = true, true
		}
	}
	c.piece = d.pieces
	lit, reason := d.arguments.line(arguments)
	if reason != "" {
		d.taint(reason)
		return
	}
	if lit.there {
		d.announce(c, lit)
		return
	}
	d.phase = atCommand
	if c.verb == login {
		if !d.arguments.proper() {
			c.malformed, c.odd, c.alone = true, true, true
		}
		c.user = string(d.arguments.user)
		if c.malformed && !d.inStep() {
			d.taint(d.piped("malformed LOGIN in a pipeline"))
		}
	}
	d.arguments.begin(false)
}

// authenticate takes the arguments of AUTHENTICATE (RFC 9051 §6.2.2).
func (d *Dialogue) authenticate(text []byte) {
	c := d.present()
	c.piece = d.pieces
	name, initial := line.Word(text)
	for _, w := range d.window[d.next : len(d.window)-1] {
		if w.verb == authenticate {
			d.taint("two SASL exchanges in a pipeline")
			return
		}
	}
	if !d.exchange.Begin(name) || bytes.IndexByte(initial, ' ') >= 0 {
		c.verb, c.alone, c.odd = unknown, true, true
		if !d.inStep() {
			d.taint(d.piped("malformed AUTHENTICATE in a pipeline"))
		}
		return
	}
	d.phase = serverTurn
	if len(initial) > 0 {
		if reason := d.exchange.Message(initial, true); reason != "" {
			d.taint(reason)
		}
		return
	}
	c.alone = true
	if !d.lockStep {
		d.taint("AUTHENTICATE without an initial response in a pipeline")
	}
}

// response takes a line of the SASL exchange that the server invited.
func (d *Dialogue) response(l *line.Line) {
	c := d.present()
	if l.Eight() || l.Tab() {
		d.taint(sasl.ReasonBase64)
		return
	}
	if d.owing && early(l.Text, true, true) {
		d.taint(line.ReasonHidden)
		return
	}
	if reason := d.exchange.Message(l.Text, false); reason != "" {
		d.taint(reason)
		return
	}
	d.phase = serverTurn
	c.alone = !d.exchange.Cancelled() // go-imap 1 does not wait for the answer to "*"
	c.piece = d.pieces
}

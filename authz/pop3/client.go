package pop3

import (
	"bytes"

	"relaygate/authz/line"
	"relaygate/authz/proxy"
	"relaygate/authz/sasl"
)

// readClient takes what the server's kernel acknowledged. whole says that it came at once.
func (d *Dialogue) readClient(b []byte, whole bool) {
	if d.pieces == 0 && d.client.Empty() && line.HelloTLS(b) {
		d.encrypted(line.ReasonHello)
		return
	}
	for len(b) > 0 && !d.done {
		if n := len(d.waiting); n > 0 && d.waiting[n-1].alone && d.turn < clientTurn {
			d.taint(wentOn(&d.waiting[n-1]))
			return
		}
		if d.whole = whole && d.client.Empty(); d.client.Empty() {
			d.inStep = d.owesNothing()
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
		if d.turn >= clientTurn {
			d.response(&l)
		} else {
			d.command(&l)
		}
		d.client.Wipe()
	}
}

// command takes one command line.
func (d *Dialogue) command(l *line.Line) {
	c := d.wait()
	argument := c.parse(l.Text)
	c.pipelined = c.pipelined || d.announces(c)
	if reason := d.classify(c, l, argument); reason != "" {
		d.taint(reason)
		return
	}
	switch c.verb {
	case unknown, stls:
		c.alone = true
	case xclient:
		if !d.announces(c) {
			c.alone = true
			break
		}
		var ok bool
		if c.client, ok = originating(argument); !ok {
			d.taint(proxy.ReasonNoAddress)
			return
		}
	case user:
		// Servers differ on blanks around the name.
		if n := len(argument); n > 0 && argument[0] != ' ' && argument[n-1] != ' ' {
			c.user = string(argument)
		}
	case apop:
		name, ok := apopName(argument)
		c.user, c.malformed = string(name), !ok
	case auth:
		if reason := d.begin(c, argument); reason != "" {
			d.taint(reason)
			return
		}
	}
	if d.inStep || d.windowChunk == 0 {
		d.windowChunk, d.basic = d.chunks, true
	}
	d.basic = d.basic && (c.verb == user || c.verb == pass || c.verb == quit || c.transaction)
	c.piece, c.chunk = d.pieces, d.chunks
}

// wait returns room for a command that waits for its answer.
func (d *Dialogue) wait() *command {
	n := len(d.waiting)
	if n == cap(d.waiting) {
		d.waiting = append(d.waiting, command{})
	}
	d.waiting = d.waiting[:n+1] // behind its end it is always empty
	return &d.waiting[n]
}

// begin starts a SASL exchange (RFC 5034 §4). It returns a reason to taint.
func (d *Dialogue) begin(c *command, argument []byte) string {
	name, initial := line.Word(argument)
	// One blank between the words: with two, some servers see an AUTH without
	// an argument, which they answer positively with a list.
	if !d.exchange.Begin(name) || bytes.IndexByte(initial, ' ') >= 0 {
		c.verb, c.alone = unknown, true
		return ""
	}
	d.turn = serverTurn
	if len(initial) > 0 {
		return d.exchange.Message(initial, true)
	}
	c.alone = true
	return ""
}

// response takes a line of the SASL exchange that the server invited.
func (d *Dialogue) response(l *line.Line) {
	c := &d.waiting[0]
	if l.Eight() || l.Tab() {
		d.taint(sasl.ReasonBase64)
		return
	}
	reason := d.exchange.Message(l.Text, d.turn == invited)
	if reason == "" && c.hides(l.Text, l.Text) {
		reason = line.ReasonHidden
	}
	if reason != "" {
		d.taint(reason)
		return
	}
	d.turn = serverTurn
	c.alone = true
	if !d.atOnce(l) {
		c.holds += holds(auth, l.Text, nil)
	}
	c.piece, c.chunk = d.pieces, d.chunks
}

package imap

import "relaygate/authz/line"

// announce takes the literal at the end of a line of command c.
func (d *Dialogue) announce(c *command, lit literal) {
	d.literals++
	switch {
	case !d.lockStep:
		d.taint("a literal in a pipeline")
		return
	case d.literals > maxPieces:
		d.taint(reasonLiterals)
		return
	case !lit.sync && c.verb != login:
		d.taint("a literal that the server was not asked for")
		return
	}
	// A literal that the server did not ask for is one that it may not know
	// (RFC 7888 §4), or not see: it would run the octets as commands. So would one whose
	// "+" is a challenge that it owed.
	if !lit.sync || d.owing {
		c.odd, c.alone = true, true
	}
	d.literal = lit
	d.phase = atLiteral
	if !lit.sync {
		d.enterLiteral()
	}
}

// enterLiteral expects the octets of the literal.
func (d *Dialogue) enterLiteral() {
	d.phase = inLiteral
	if d.literal.size == 0 {
		d.endLiteral()
	}
}

// octets takes what b holds of the literal and returns the rest. A control
// character in a literal could be a line end to a server that does not know
// literals, or that repeats it.
func (d *Dialogue) octets(b []byte) (rest []byte) {
	text, rest, state := d.client.Octets(b, d.literal.size)
	if state != line.Complete {
		return nil
	}
	c := d.present()
	for _, o := range text {
		if o < ' ' || o == 0x7f || o == 0xff {
			d.taint("control character in a literal")
			return nil
		}
		if o >= 0x80 && c.verb != login {
			d.taint(reasonEightBit)
			return nil
		}
	}
	if d.hidden(c, text, true) {
		d.taint(line.ReasonHidden)
		return nil
	}
	d.arguments.keep(text)
	d.client.Wipe()
	d.endLiteral()
	return rest
}

// endLiteral counts the literal as one complete argument.
func (d *Dialogue) endLiteral() {
	d.pieces++
	d.present().piece = d.pieces
	d.phase = atText
	if reason := d.arguments.end(); reason != "" {
		d.taint(reason)
	}
}

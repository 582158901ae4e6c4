package imap

import (
	"bytes"

	"relaygate/authz/line"
)

// literal is what the end of a line announces (RFC 9051 §4.3).
type literal struct {
	there bool
	size  int  // in octets
	sync  bool // the client waits for the server's "+"
	// tagged is true if it does not, and the octets ended with the command's tag.
	tagged bool
}

// arguments reads the arguments of a command over all its lines and literals.
// It knows strings, atoms and literals, which is what decides where a command
// ends, and for LOGIN counts them.
type arguments struct {
	// login is true for LOGIN: two strings and nothing else.
	login bool
	// count is the number of strings so far, user the first of them.
	count int
	user  []byte
	// malformed is true if the grammar of LOGIN is broken.
	malformed bool
	// glued is true if the last argument was a literal, so that a blank must
	// come next.
	glued bool
}

// Reasons to taint.
const (
	reasonQuote    = "quoted string without a proper end"
	reasonBrace    = "a brace that servers may take for a literal"
	reasonUser     = "user name is too long"
	reasonLiteral  = "literal is too long"
	reasonLiterals = "a command with too many literals"
)

// Bounds are the reasons that say of a bound that it was hit, besides line's and sasl's.
var Bounds = []string{reasonUser, reasonLiteral, reasonLiterals}

// begin starts the arguments of a command.
func (a *arguments) begin(login bool) {
	clear(a.user) // behind its end it always is
	a.login, a.count, a.user = login, 0, a.user[:0]
	a.malformed, a.glued = false, false
}

// line reads the arguments in one line and returns the literal at its end, and
// a reason to taint.
func (a *arguments) line(text []byte) (lit literal, reason string) {
	if a.glued && len(text) > 0 && text[0] != ' ' && text[0] != ')' {
		return literal{}, "text glued to a literal"
	}
	a.glued = false
	for len(text) > 0 {
		switch c := text[0]; c {
		case ' ', '\t':
			text = text[1:]
		case '(', ')':
			a.malformed = true
			text = text[1:]
		case '"':
			if text, reason = a.quoted(text); reason != "" {
				return literal{}, reason
			}
		case '{':
			lit, reason = parseLiteral(text)
			a.glued = lit.there
			return lit, reason
		default:
			if text, reason = a.atom(text); reason != "" {
				return literal{}, reason
			}
		}
	}
	return literal{}, ""
}

// endsQuoted are the octets in a quoted string that are not just a part of it.
var endsQuoted = [256]bool{'\\': true, '"': true, '\t': true}

// quoted reads a quoted string (RFC 9051 §4.3) and returns what follows.
func (a *arguments) quoted(text []byte) (rest []byte, reason string) {
	text = text[1:]
	for n := 0; ; n = 1 { // the octet behind a backslash is text
		for n < len(text) && !endsQuoted[text[n]] {
			n++
		}
		if n == len(text) {
			return nil, reasonQuote
		}
		a.keep(text[:n])
		end := text[n]
		text = text[n+1:]
		switch {
		case end == '\t':
			return nil, line.ReasonControl
		case end == '"' && (len(text) == 0 || text[0] == ' ' || text[0] == '\t' || text[0] == ')'):
			return text, a.end()
		case end == '"', len(text) == 0, text[0] != '\\' && text[0] != '"':
			return nil, reasonQuote
		}
	}
}

// endsAtom are the octets at which an atom ends, or what looks like one breaks off.
var endsAtom = [256]bool{' ': true, '\t': true, '(': true, ')': true, '"': true, '{': true}

// atom reads up to the next blank or parenthesis. It takes more than an astring
// may hold, for clients that send passwords raw, but nothing that begins or
// ends a string.
func (a *arguments) atom(text []byte) (rest []byte, reason string) {
	n := 0
	for n < len(text) && !endsAtom[text[n]] {
		n++
	}
	a.keep(text[:n])
	rest = text[n:]
	switch {
	case len(rest) > 0 && rest[0] == '"':
		return nil, reasonQuote
	case len(rest) > 0 && rest[0] == '{':
		return nil, reasonBrace
	}
	return rest, a.end()
}

// keep adds octets to the user name, and lets end see if there are too many. Of
// other arguments nothing is kept.
func (a *arguments) keep(octets []byte) {
	if !a.login || a.count > 0 {
		return
	}
	if cap(a.user) == 0 {
		a.user = make([]byte, 0, maxUser+1)
	}
	a.user = append(a.user, octets[:min(len(octets), maxUser+1-len(a.user))]...)
}

// end counts a string that is complete.
func (a *arguments) end() string {
	a.count++
	if len(a.user) > maxUser {
		return reasonUser
	}
	return ""
}

// proper reports whether the arguments are those of LOGIN.
func (a *arguments) proper() bool {
	return a.login && !a.malformed && a.count == 2 && len(a.user) > 0
}

// parseLiteral reads "{" number "}" or "{" number "+}" at the end of a line.
// Every other form is a reason to taint: some servers take "{+23}", "~{23}" or
// "{023}" for a literal and others run the next line.
func parseLiteral(text []byte) (literal, string) {
	body, ok := bytes.CutSuffix(text[1:], []byte{'}'})
	if !ok {
		return literal{}, reasonBrace
	}
	body, plus := bytes.CutSuffix(body, []byte{'+'})
	if len(body) == 0 || len(body) > 1 && body[0] == '0' {
		return literal{}, reasonBrace
	}
	size := 0
	for _, c := range body {
		if c < '0' || c > '9' {
			return literal{}, reasonBrace
		}
		if size = size*10 + int(c-'0'); size > maxLiteral {
			return literal{}, reasonLiteral
		}
	}
	return literal{there: true, size: size, sync: !plus}, ""
}

package imap

import "bytes"

// literal is what the end of a line announces (RFC 9051 §4.3).
type literal struct {
	there bool
	size  int
	sync  bool // the client waits for the server's "+"
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
	reasonQuote   = "quoted string without a proper end"
	reasonBrace   = "a brace that servers may take for a literal"
	reasonUser    = "user name is too long"
	reasonLiteral = "literal is too long"
)

// begin starts the arguments of a command.
func (a *arguments) begin(login bool) {
	clear(a.user[:cap(a.user)])
	*a = arguments{login: login, user: a.user[:0]}
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

// quoted reads a quoted string (RFC 9051 §4.3) and returns what follows.
func (a *arguments) quoted(text []byte) (rest []byte, reason string) {
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch c {
		case '\\':
			if i++; i == len(text) || text[i] != '\\' && text[i] != '"' {
				return nil, reasonQuote
			}
			c = text[i]
		case '"':
			rest = text[i+1:]
			if len(rest) > 0 && bytes.IndexByte([]byte(" \t)"), rest[0]) < 0 {
				return nil, reasonQuote
			}
			return rest, a.end()
		case '\t':
			return nil, reasonControl
		}
		a.keep(c)
	}
	return nil, reasonQuote
}

// atom reads up to the next blank or parenthesis. It takes more than an astring
// may hold, for clients that send passwords raw, but nothing that begins or
// ends a string.
func (a *arguments) atom(text []byte) (rest []byte, reason string) {
	for i, c := range text {
		switch c {
		case ' ', '\t', '(', ')':
			return text[i:], a.end()
		case '"':
			return nil, reasonQuote
		case '{':
			return nil, reasonBrace
		}
		a.keep(c)
	}
	return nil, a.end()
}

// keep adds an octet to the user name. Of other arguments nothing is kept.
func (a *arguments) keep(c byte) {
	if a.login && a.count == 0 && len(a.user) <= maxUser {
		if cap(a.user) == 0 {
			a.user = make([]byte, 0, maxUser+1)
		}
		a.user = append(a.user, c)
	}
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

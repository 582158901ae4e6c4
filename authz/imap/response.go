package imap

import (
	"bytes"

	"relaygate/authz/line"
)

// status is the kind of a server line.
type status uint8

const (
	noStatus status = iota
	untagged
	challenge
	tagged
)

// response is one server line (RFC 9051 §7).
type response struct {
	status status
	tag    []byte // tagged
	text   []byte // behind "*", "+" or the tag
}

func (r *response) parse(text []byte) {
	first, rest := line.Word(text)
	r.text = rest
	switch {
	case string(first) == "+":
		r.status = challenge
	case string(first) == "*":
		r.status = untagged
	case r.is("OK"), r.is("NO"), r.is("BAD"):
		r.status, r.tag = tagged, first
	default:
		*r = response{}
	}
}

// is compares the status word, whose case is free (RFC 9051 §9).
func (r *response) is(word string) bool { return line.Begins(r.text, word) }

// endsInLiteral reports whether a server line announces a literal.
func endsInLiteral(text []byte) bool {
	return len(text) > 0 && text[len(text)-1] == '}' && announces(text[:len(text)-1])
}

// announces reports whether the text before a brace announces a literal.
func announces(text []byte) bool {
	text = bytes.TrimSuffix(text, []byte{'+'})
	open := bytes.LastIndexByte(text, '{')
	if open < 0 || open == len(text)-1 {
		return false
	}
	for _, c := range text[open+1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

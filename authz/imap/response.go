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

// takesLiterals reports whether a server line lists a capability with which the
// server takes literals that it was not asked for (RFC 7888 §3; RFC 9051 §7.2.2
// has it in IMAP4rev2). The list is untagged data or a response code.
func takesLiterals(text []byte) bool {
	list, ok := bytes.CutPrefix(text, []byte("CAPABILITY "))
	if code, found := bytes.CutPrefix(text, []byte("OK [CAPABILITY ")); found {
		end := bytes.IndexByte(code, ']')
		list, ok = code[:max(end, 0)], end >= 0
	}
	return ok && (lists(list, "LITERAL+") || lists(list, "LITERAL-") || lists(list, "IMAP4REV2"))
}

// lists reports whether a word is in a list that is separated by single spaces. It
// looks for the word's last octet, which is a rare one and has no case.
func lists(list []byte, name string) bool {
	for at := 0; ; {
		i := bytes.IndexByte(list[at:], name[len(name)-1])
		if i < 0 {
			return false
		}
		at += i + 1
		begin := at - len(name)
		if begin >= 0 && (begin == 0 || list[begin-1] == ' ') && line.Begins(list[begin:], name) {
			return true
		}
	}
}

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

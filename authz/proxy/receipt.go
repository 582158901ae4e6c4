package proxy

import (
	"bytes"

	"relaygate/authz"
)

// Receipt reads a server's clear text behind a header and says whether the
// server took the header for one. Answers come in the order of the commands: a
// server that took it for a command refuses it before it answers anything else.
// So the first answer behind the greeting must not be a refusal, or in IMAP not
// one that can be that of the header: its tag would be the header's first word.
//
// The zero value is ready.
type Receipt struct {
	begun   [32]byte // the start of the present line
	length  int      // of the present line, in octets
	greeted bool
	done    bool
}

// ReasonNotTaken: the server's answers do not show that it knows the header.
const ReasonNotTaken = "the server may have taken the PROXY header for a command"

// Done reports whether the server is known to have taken the header.
func (r *Receipt) Done() bool { return r.done }

// Server takes octets of the server. It reports false if the header is not to
// be believed.
func (r *Receipt) Server(p authz.Protocol, b []byte) bool {
	for _, c := range b {
		if r.done {
			return true
		}
		if c != '\n' {
			if r.length < len(r.begun) {
				r.begun[r.length] = c
			}
			r.length++
			continue
		}
		line := bytes.TrimSuffix(r.begun[:min(r.length, len(r.begun))], []byte("\r"))
		r.length = 0
		if !r.greeted {
			r.greeted = true
			continue
		}
		if !r.answer(p, line) {
			return false
		}
	}
	return true
}

// answer takes the start of one line behind the greeting.
func (r *Receipt) answer(p authz.Protocol, line []byte) bool {
	if p == authz.POP3 {
		r.done = bytes.HasPrefix(line, []byte("+"))
		return r.done
	}
	tag, rest, _ := bytes.Cut(line, []byte(" "))
	word, _, _ := bytes.Cut(rest, []byte(" "))
	is := func(s string) bool { return bytes.EqualFold(word, []byte(s)) }
	switch string(tag) {
	case "*":
		// Data answers nothing; "* BAD" and its like may answer the header.
		return !is("BAD") && !is("NO") && !is("BYE")
	case "+":
		r.done = true
	case "PROXY", "QUIT": // the words that begin a line of a header
		return false
	default:
		// A tag that leaves no room for the status proves nothing.
		r.done = is("OK") || is("NO") || is("BAD")
		return r.done
	}
	return true
}

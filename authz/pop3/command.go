package pop3

import (
	"bytes"
	"net/netip"

	"relaygate/authz/line"
)

// verb is a command, and the greeting as the answer to the connection itself.
type verb uint8

const (
	unknown verb = iota
	greeting
	user
	pass
	apop
	auth
	authList // AUTH without an argument
	stls
	xclient
	quit
	other // any other command of the table
)

// shape is the form of a command's positive answer.
type shape uint8

const (
	single    shape = iota // one line
	multi                  // lines up to "." (RFC 1939 §3)
	multiBare              // the same if the command came without an argument
	dropList               // "+OK n n" (RFC 1939 §5, STAT)
)

// spec is one row of the table of commands.
type spec struct {
	name  string
	verb  verb
	shape shape
	// pipelined is true for commands that may stand in a pipeline.
	pipelined bool
	// transaction is true for commands that need a maildrop (RFC 1939 §5):
	// their positive answer cannot come before a login.
	transaction bool
}

var specs = [...]spec{
	{name: "", verb: other, shape: single, pipelined: true}, // an empty line
	{name: "USER", verb: user, pipelined: true},
	{name: "PASS", verb: pass, pipelined: true},
	{name: "APOP", verb: apop, pipelined: true},
	{name: "AUTH", verb: auth, pipelined: true},
	{name: "CAPA", verb: other, shape: multi, pipelined: true}, // RFC 2449 §5
	{name: "STLS", verb: stls},                                 // RFC 2595 §4
	{name: "QUIT", verb: quit, pipelined: true},
	{name: "NOOP", verb: other, pipelined: true},
	{name: "UTF8", verb: other, pipelined: true},                   // RFC 6856 §2.1
	{name: "LANG", verb: other, shape: multiBare, pipelined: true}, // RFC 6856 §3
	{name: "XCLIENT", verb: xclient},
	{name: "STAT", verb: other, shape: dropList, pipelined: true, transaction: true},
	{name: "LIST", verb: other, shape: multiBare, pipelined: true, transaction: true},
	{name: "UIDL", verb: other, shape: multiBare, pipelined: true, transaction: true},
	{name: "RETR", verb: other, shape: multi, pipelined: true, transaction: true},
	{name: "TOP", verb: other, shape: multi, pipelined: true, transaction: true},
	{name: "DELE", verb: other, pipelined: true, transaction: true},
	{name: "RSET", verb: other, pipelined: true},
	{name: "LAST", verb: other, pipelined: true, transaction: true}, // RFC 1460
}

// command is one command whose answer has not come yet.
type command struct {
	spec
	// user is the name in USER and APOP.
	user string
	// client is whom a proxy announces in XCLIENT.
	client netip.Addr
	// alone is true if nothing may be released behind it before its answer.
	alone bool
	// odd is true if servers are known to cut such a line differently: any
	// answer but a positive one ends the belief in what follows.
	odd bool
	// malformed is true if a server that checks refuses it.
	malformed bool
	// piece is the number of the client's last line of this command, chunk
	// that of the chunk which completed it.
	piece, chunk uint64
}

// parse finds the command, and returns its argument, a part of text.
func (c *command) parse(text []byte) (argument []byte) {
	word, argument := line.Word(text)
	for i := range specs {
		if line.Is(word, specs[i].name) && (len(word) > 0 || len(text) == 0) {
			c.spec = specs[i]
			break
		}
	}
	if c.shape == multiBare {
		c.shape = single
		if len(bytes.TrimSpace(argument)) == 0 {
			c.shape = multi
		}
	}
	if c.verb == auth && len(word) == len(text) {
		c.verb, c.shape = authList, multi
	}
	return argument
}

// apopName is the name of "name digest" (RFC 1939 §7).
func apopName(argument []byte) (name []byte, ok bool) {
	at := bytes.LastIndexByte(argument, ' ')
	if at <= 0 || len(argument)-at-1 != 32 {
		return nil, false
	}
	return argument[:at], true
}

// status is the status indicator of an answer (RFC 1939 §3, RFC 5034 §4).
type status uint8

const (
	noStatus status = iota
	positive
	negative
	challenge
)

func statusOf(text []byte) status {
	switch {
	case isWord(text, "+OK"):
		return positive
	case bytes.HasPrefix(text, []byte("-ERR")):
		return negative
	case isWord(text, "+"):
		return challenge
	}
	return noStatus
}

// isWord reports whether text is the word, alone or with a blank behind it.
func isWord(text []byte, word string) bool {
	return len(text) >= len(word) && string(text[:len(word)]) == word &&
		(len(text) == len(word) || text[len(word)] == ' ')
}

// isDropList reports whether text is "+OK n n" with or without more behind it.
func isDropList(text []byte) bool {
	_, rest := line.Field(text)
	count, rest := line.Field(rest)
	octets, _ := line.Field(rest)
	return isNumber(count) && isNumber(octets)
}

func isNumber(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// hasStamp reports whether a greeting holds an APOP time stamp: a msg-id of
// RFC 822 in angle brackets (RFC 1939 §7).
func hasStamp(text []byte) bool {
	open := bytes.IndexByte(text, '<')
	return open >= 0 && bytes.IndexByte(text[open:], '>') > 1
}

package imap

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
	login
	authenticate
	startTLS
	id     // ID, with which a proxy can announce its client (RFC 2971)
	single // a known command that may stand in a pipeline
	modal  // a known command that changes how the connection is read
)

// beforeLogin is how many commands of names a server may answer positively, or begin,
// where nobody has logged in.
const beforeLogin = 13

// names holds the commands of RFC 9051 §6 and of the usual extensions. The
// answer to each is some untagged data and one tagged line.
var names = [...]struct {
	name string
	verb verb
}{
	{"LOGIN", login},
	{"AUTHENTICATE", authenticate},
	{"CAPABILITY", single},
	{"NOOP", single},
	{"LOGOUT", single},
	{"ID", id},
	{"STARTTLS", startTLS},
	{"ENABLE", single}, // RFC 5161
	{"LANGUAGE", single},
	{"COMPARATOR", single}, // RFC 5255
	{"CHECK", single},      // go-imap 2
	{"CLIENTID", single},   // draft-yu-imap-client-id
	{"IDLE", modal},
	{"NAMESPACE", single}, // RFC 2342
	{"SELECT", single},
	{"EXAMINE", single},
	{"LIST", single},
	{"LSUB", single},
	{"STATUS", single},
	{"SUBSCRIBE", single},
	{"UNSUBSCRIBE", single},
	{"CREATE", single},
	{"CLOSE", single},
	{"UNSELECT", single},
	{"EXPUNGE", single},
	{"SEARCH", single},
	{"FETCH", single},
	{"STORE", single},
	{"COPY", single},
	{"UID", single},
	{"GETQUOTA", single},
	{"GETQUOTAROOT", single}, // RFC 9208
	{"APPEND", modal},
	{"COMPRESS", modal},       // RFC 4978
	{"UNAUTHENTICATE", modal}, // RFC 8437
}

func lookup(word []byte) verb {
	for i := range names {
		if line.Is(word, names[i].name) {
			return names[i].verb
		}
	}
	return unknown
}

// tag names a command (RFC 9051 §9). It is wiped with the command: people type
// passwords at the wrong time.
type tag struct {
	text   [maxTag]byte
	length uint8
}

// atomSpecials are those of RFC 9051 §9 that are printable, and "+".
var atomSpecials = [256]bool{'(': true, ')': true, '{': true, '%': true, '*': true, '"': true, '\\': true, '+': true}

// set reports whether text is a tag: one or more ASTRING-CHAR but "+", that is
// neither atom-specials (RFC 9051 §9) nor eight-bit.
func (t *tag) set(text []byte) bool {
	if len(text) == 0 || len(text) > maxTag {
		return false
	}
	for _, c := range text {
		if c <= ' ' || c >= 0x7f || atomSpecials[c] {
			return false
		}
	}
	t.length = uint8(copy(t.text[:], text))
	return true
}

func (t *tag) bytes() []byte { return t.text[:t.length] }

// ends reports whether one of two tags ends with the other.
func (t *tag) ends(other *tag) bool {
	return bytes.HasSuffix(t.bytes(), other.bytes()) || bytes.HasSuffix(other.bytes(), t.bytes())
}

// command is one command of the present window.
type command struct {
	verb verb
	tag  tag
	// twin is true if another command of the window has the same tag, or one of which
	// one ends with the other.
	twin bool
	// alone is true if nothing may be released behind it before its answer.
	alone bool
	// odd is true if servers are known to cut such a command differently: any
	// answer but a positive one ends the belief in what follows.
	odd bool
	// hides is true of a login in step if a part of it can be another command.
	hides bool
	// malformed is true if a server that checks refuses it.
	malformed bool
	// user is the name in LOGIN.
	user string
	// client is whom a proxy announces in ID.
	client netip.Addr
	// piece is the number of the client's last line or literal of it.
	piece uint64
}

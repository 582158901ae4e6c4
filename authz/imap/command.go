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

// beforeLogin is how many commands of names a server may answer positively where
// nobody has logged in.
const beforeLogin = 10

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
	{"NAMESPACE", single},  // RFC 2342
	{"SELECT", single},
	{"EXAMINE", single},
	{"LIST", single},
	{"LSUB", single},
	{"STATUS", single},
	{"SUBSCRIBE", single},
	{"UNSUBSCRIBE", single},
	{"CREATE", single},
	{"CHECK", single},
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
	{"IDLE", modal},
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

// hides reports whether some end of a line can be a command of its own, with the
// end of a word for its tag. A server that lost the beginning would run it. rest is
// what stands behind the line's tag and command. With ends, the end of a word counts
// for a command too: one that lost the middle would run it with the line's tag.
func hides(rest []byte, ends bool) bool {
	for len(rest) > 0 {
		var word []byte
		if word, rest = line.Word(rest); early(word, ends) {
			return true
		}
	}
	return false
}

// hidesTagged is hides for a command whose answer must bear a tag. text is the whole
// line.
func hidesTagged(text, rest, tag []byte) bool {
	last := bytes.TrimRight(text[:len(text)-len(rest)], " ")
	for len(rest) > 0 {
		var word []byte
		if word, rest = line.Word(rest); bytes.HasSuffix(last, tag) && early(word, false) {
			return true
		}
		last = word
	}
	return false
}

// early reports whether a word, or with ends its end, is a command that a server may
// answer positively where nobody has logged in.
func early(word []byte, ends bool) bool {
	for i := range names[:beforeLogin] {
		at := len(word) - len(names[i].name)
		if (at == 0 || at > 0 && ends) && line.Is(word[at:], names[i].name) {
			return true
		}
	}
	return false
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

// command is one command of the present window.
type command struct {
	verb verb
	tag  tag
	// twin is true if another command of the window has the same tag, or one that
	// ends with it.
	twin bool
	// alone is true if nothing may be released behind it before its answer.
	alone bool
	// odd is true if servers are known to cut such a command differently: any
	// answer but a positive one ends the belief in what follows.
	odd bool
	// unasked is true if the command has a literal that the server was not
	// asked for.
	unasked bool
	// malformed is true if a server that checks refuses it.
	malformed bool
	// user is the name in LOGIN.
	user string
	// client is whom a proxy announces in ID.
	client netip.Addr
	// piece is the number of the client's last line or literal of it.
	piece uint64
}

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

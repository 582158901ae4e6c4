package line

import (
	"bytes"

	"relaygate/authz"
)

// Field returns the text up to the first blank, and what follows all blanks
// behind it.
func Field(text []byte) (field, rest []byte) {
	for i, c := range text {
		if c <= ' ' && blank(c) {
			field, rest = text[:i], text[i+1:]
			for len(rest) > 0 && blank(rest[0]) {
				rest = rest[1:]
			}
			return field, rest
		}
	}
	return text, nil
}

// Word returns the text up to the first space, and what follows that one.
func Word(text []byte) (word, rest []byte) {
	for i, c := range text {
		if c == ' ' {
			return text[:i], text[i+1:]
		}
	}
	return text, nil
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// Splits reports whether some text library would end a line inside the text:
// NEL (U+0085, also as a single octet) or the separators U+2028 and U+2029,
// which are line ends by Unicode Standard Annex 14.
func Splits(text []byte) bool {
	return bytes.IndexByte(text, 0x85) >= 0 ||
		bytes.Contains(text, []byte("\u2028")) || bytes.Contains(text, []byte("\u2029"))
}

// Answers makes Login.Answer out of a server's status line. It keeps the last ones,
// and the last greeting: servers say the same to everybody.
type Answers struct {
	positive, negative string

	greeting []byte // with its line end
	noted    bool
}

// maxGreeting bounds the greeting that is kept, in octets.
const maxGreeting = 512

// Greets takes a chunk that is one greeting and no more, and what it says that is to
// be known of it when it comes again.
func (a *Answers) Greets(chunk []byte, noted bool) {
	if len(chunk) <= maxGreeting && bytes.IndexByte(chunk, '\n') == len(chunk)-1 {
		a.greeting, a.noted = append(a.greeting[:0], chunk...), noted
	}
}

// Greeted reports whether the chunk is the last greeting again, which need not be
// read then, and what was noted of it.
func (a *Answers) Greeted(chunk []byte) (noted, again bool) {
	return a.noted, len(chunk) > 0 && bytes.Equal(chunk, a.greeting)
}

// Positive is the answer of a line that accepts.
func (a *Answers) Positive(text []byte) string { return keep(&a.positive, text) }

// Negative is the answer of a line that refuses: the status word and the bracketed
// response code (RFC 2449 §8, RFC 9051 §7.1) only, as servers exist that repeat
// what the client sent in the text.
func (a *Answers) Negative(text []byte) string {
	word, rest := Field(text)
	end := len(word)
	if i := bytes.IndexByte(rest, ']'); i > 0 && rest[0] == '[' {
		end = len(text) - len(rest) + i + 1
	}
	return keep(&a.negative, text[:end])
}

func keep(last *string, text []byte) string {
	text = text[:min(len(text), authz.AnswerLimit)]
	if string(text) != *last {
		*last = string(text)
	}
	return *last
}

// Is reports whether an octet string is a word, named in capitals, in any case.
// ASCII letters alone have one: no other counts as one of them, as some do in
// Unicode's folding. A name holds letters, digits and the signs below them.
func Is(word []byte, name string) bool {
	if len(word) != len(name) {
		return false
	}
	for i, c := range word {
		if c != name[i] && c != name[i]|0x20 { // which makes a letter small, and leaves the others
			return false
		}
	}
	return true
}

// Begins reports whether the first word of a text is the one named in capitals,
// in any case.
func Begins(text []byte, name string) bool {
	n := len(name)
	return len(text) >= n && (len(text) == n || text[n] == ' ') && Is(text[:n], name)
}

// HelloTLS reports whether the first octets of a client are those of a TLS
// record with a handshake message (RFC 8446 §5.1), as far as they have come.
func HelloTLS(b []byte) bool {
	return len(b) > 0 && b[0] == 0x16 && (len(b) == 1 || b[1] == 3)
}

package line

import (
	"bytes"

	"relaygate/authz"
)

// Field returns the text up to the first blank, and what follows all blanks
// behind it.
func Field(text []byte) (field, rest []byte) {
	end := bytes.IndexAny(text, " \t")
	if end < 0 {
		return text, nil
	}
	return text[:end], bytes.TrimLeft(text[end:], " \t")
}

// Splits reports whether some text library would end a line inside the text:
// NEL (U+0085, also as a single octet) or the separators U+2028 and U+2029,
// which are line ends by Unicode Standard Annex 14.
func Splits(text []byte) bool {
	return bytes.IndexByte(text, 0x85) >= 0 ||
		bytes.Contains(text, []byte("\u2028")) || bytes.Contains(text, []byte("\u2029"))
}

// Answer makes Login.Answer out of a server's status line. Of a refusal it
// keeps the status word and the bracketed response code (RFC 2449 §8, RFC 9051
// §7.1) only: servers exist that repeat what the client sent in the text.
func Answer(text []byte, positive bool) string {
	if !positive {
		word, rest := Field(text)
		end := len(word)
		if i := bytes.IndexByte(rest, ']'); i > 0 && rest[0] == '[' {
			end = len(text) - len(rest) + i + 1
		}
		text = text[:end]
	}
	if len(text) > authz.AnswerLimit {
		text = text[:authz.AnswerLimit]
	}
	return string(text)
}

// Is reports whether an octet string is a word of ASCII letters in any case. No
// other letter counts as one of them, as some do in Unicode's folding.
func Is(word []byte, name string) bool {
	return len(word) == len(name) && bytes.EqualFold(word, []byte(name))
}

// HelloTLS reports whether the first octets of a client are those of a TLS
// record with a handshake message (RFC 8446 §5.1), as far as they have come.
func HelloTLS(b []byte) bool {
	return len(b) > 0 && b[0] == 0x16 && (len(b) == 1 || b[1] == 3)
}

package pop3

import (
	"bytes"

	"relaygate/authz/line"
)

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

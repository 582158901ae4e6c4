package imap

import (
	"testing"

	"relaygate/authz/line/linetest"
)

// FuzzDialogue feeds anything behind each of several beginnings.
func FuzzDialogue(f *testing.F) {
	linetest.Fuzz(f, "testdata/*.txt", []string{
		"",
		"S* OK ready\r\n",
		"S* OK ready\r\n|Ca1 LOGIN alice x\r\n",
		"S* OK ready\r\n|Ca1 LOGIN {5}\r\n",
		"S* OK ready\r\n|Ca1 LOGIN {5}\r\n|S+ \r\n",
		"S* OK ready\r\n|Ca1 LOGIN {5+}\r\nalice",
		"S* OK ready\r\n|Ca1 AUTHENTICATE PLAIN\r\n|S+ \r\n",
		"S* OK ready\r\n|Ca1 NOOP\r\na1 LOGIN alice x\r\n|Sa1 OK\r\n",
	}, start)
}

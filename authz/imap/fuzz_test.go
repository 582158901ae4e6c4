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

// FuzzBehindTLS feeds anything that a trusted proxy sends through TLS.
func FuzzBehindTLS(f *testing.F) {
	linetest.Fuzz(f, "testdata/*.txt", []string{
		"",
		"Ca1 ID (\"x-originating-ip\" \"192.0.2.1\")\r\na2 LOGIN alice x\r\n|Sa1 OK\r\n",
		"Ca1 ID (\"x-multiplex\" \"0\")\r\na2 LOGIN alice x\r\n|S* MULTIPLEX 0\r\n" + frameHeader + "a1 OK\r\n" + frameMark,
		"Ca1 LOGIN alice x\r\n",
	}, func() linetest.Dialogue {
		d := NewAfterTLS()
		d.TrustPeer()
		return d
	})
}

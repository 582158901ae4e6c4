package imap

import (
	"testing"

	"relaygate/authz/line/linetest"
)

// BenchmarkDialogue reads a connection up to its login.
func BenchmarkDialogue(b *testing.B) {
	linetest.Benchmark(b, New, linetest.Talk("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ STARTTLS AUTH=PLAIN] ready.",
		"a1 CAPABILITY", "* CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN\r\na1 OK Capability completed.",
		"a2 LOGIN alice@example.org \"secret\"", "a2 OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS] Logged in"))
}

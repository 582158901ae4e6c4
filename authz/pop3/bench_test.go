package pop3

import (
	"testing"

	"relaygate/authz/line/linetest"
)

// BenchmarkDialogue reads a connection up to its login.
func BenchmarkDialogue(b *testing.B) {
	linetest.Benchmark(b, New, linetest.Talk("+OK ready.",
		"CAPA", "+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n.",
		"USER alice@example.org", "+OK", "PASS secret", "+OK Logged in."))
}

package pop3

import (
	"testing"

	"relaygate/authz"
)

// BenchmarkDialogue reads a connection up to its login.
func BenchmarkDialogue(b *testing.B) {
	var chunks []authz.Chunk
	for i, text := range []string{
		"+OK ready.\r\n", "CAPA\r\n", "+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\nUSER\r\nSASL PLAIN\r\n.\r\n",
		"USER alice@example.org\r\n", "+OK\r\n", "PASS secret\r\n", "+OK Logged in.\r\n",
	} {
		chunks = append(chunks, authz.Chunk{Dir: authz.Dir((i + 1) % 2), Bytes: []byte(text)})
	}
	b.ReportAllocs()
	d := New()
	for b.Loop() {
		d.Reset()
		for _, c := range chunks {
			d.Feed(c)
		}
		if !d.Done() {
			b.Fatal("no verdict")
		}
	}
}

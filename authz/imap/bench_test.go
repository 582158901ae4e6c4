package imap

import (
	"testing"

	"relaygate/authz"
)

// BenchmarkDialogue reads a connection up to its login.
func BenchmarkDialogue(b *testing.B) {
	var chunks []authz.Chunk
	for i, text := range []string{
		"* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ STARTTLS AUTH=PLAIN] ready.\r\n",
		"a1 CAPABILITY\r\n", "* CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN\r\na1 OK Capability completed.\r\n",
		"a2 LOGIN alice@example.org \"secret\"\r\n", "a2 OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS] Logged in\r\n",
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

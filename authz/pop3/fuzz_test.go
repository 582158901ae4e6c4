package pop3

import (
	"testing"

	"relaygate/authz/line/linetest"
)

// FuzzDialogue feeds anything behind each of several beginnings.
func FuzzDialogue(f *testing.F) {
	linetest.Fuzz(f, "testdata/*.txt", []string{
		"",
		"S+OK ready <1@x>\r\n",
		"S+OK ready\r\n|CUSER alice\r\n",
		"S+OK ready\r\n|CUSER alice\r\n|S+OK\r\n|CPASS x\r\n",
		"S+OK ready\r\n|CUSER alice\r\nPASS x\r\nNOOP\r\n|S+OK\r\n+OK\r\n",
		"S+OK ready\r\n|CAUTH PLAIN\r\n|S+ \r\n",
		"S+OK ready\r\n|CCAPA\r\n|S+OK\r\nX\r\n",
	}, start)
}

// FuzzBehindTLS feeds anything that a trusted proxy sends through TLS.
func FuzzBehindTLS(f *testing.F) {
	linetest.Fuzz(f, "testdata/*.txt", []string{
		"",
		"CXCLIENT ADDR=192.0.2.1\r\nUSER alice\r\n|S+OK\r\n",
		"CUSER alice\r\n|S+OK\r\n|CPASS x\r\n",
	}, func() linetest.Dialogue {
		d := NewAfterTLS()
		d.TrustPeer()
		return d
	})
}

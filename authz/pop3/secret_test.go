package pop3

import (
	"encoding/base64"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/authz/line/linetest"
)

// TestCanary: a password, wherever it is typed but as a user name, is in no
// verdict, and in nothing that the dialogue keeps once its line was answered.
func TestCanary(t *testing.T) {
	const canary = linetest.Canary
	b64 := base64.StdEncoding.EncodeToString
	for _, lines := range [][]string{
		{"USER alice", "+OK", "PASS " + canary, "-ERR no " + canary},
		{"USER alice", "+OK", "PASS " + canary, "+OK"},
		{"USER alice", "+OK", "PASS " + canary + strings.Repeat("x", 300), "-ERR"},
		{"PASS " + canary, "-ERR USER first"},
		{canary, "-ERR what is " + canary},
		{"STAT " + canary, "-ERR [SYS] " + canary},
		{"AUTH PLAIN", "+ ", b64([]byte("\x00alice\x00" + canary)), "-ERR"},
		{"AUTH PLAIN " + b64([]byte("\x00alice\x00"+canary)), "+OK"},
		{"AUTH LOGIN", "+ ", b64([]byte("alice")), "+ ", b64([]byte(canary)), "-ERR"},
		{"AUTH LOGIN", "-ERR", "AUTH " + canary, "-ERR"},
		{"AUTH XOAUTH2 " + b64([]byte("user=alice\x01auth=Bearer "+canary+"\x01\x01")), "-ERR"},
		{"APOP alice " + canary, "-ERR"},
		{"\x00PASS " + canary},
	} {
		for _, drip := range []bool{false, true} {
			d := New()
			chunks := []authz.Chunk{{Dir: authz.FromServer, Bytes: []byte("+OK\r\n")}}
			for i, l := range lines {
				chunks = append(chunks, authz.Chunk{Dir: authz.Dir(i % 2), Bytes: []byte(l + "\r\n")})
			}
			if drip {
				chunks = linetest.Drip(chunks)
			}
			for _, c := range chunks {
				if verdicts := d.Feed(c); linetest.Holds(verdicts) {
					t.Errorf("%q: the password is in %+v", lines, verdicts)
				}
			}
			if linetest.Holds(*d) || linetest.Holds(d.waiting[:cap(d.waiting)]) {
				t.Errorf("%q: the password is still in %#v", lines, *d)
			}
		}
	}
}

// TestAllocations: an ordinary connection costs a handful of allocations, all
// of them for the dialogue itself and the names in its verdicts.
func TestAllocations(t *testing.T) {
	chunks := []authz.Chunk{
		{Dir: authz.FromServer, Bytes: []byte("+OK ready\r\n")},
		{Dir: authz.FromClient, Bytes: []byte("CAPA\r\n")},
		{Dir: authz.FromServer, Bytes: []byte("+OK\r\nUSER\r\nUIDL\r\n.\r\n")},
		{Dir: authz.FromClient, Bytes: []byte("USER alice\r\n")},
		{Dir: authz.FromServer, Bytes: []byte("+OK\r\n")},
		{Dir: authz.FromClient, Bytes: []byte("PASS secret\r\n")},
		{Dir: authz.FromServer, Bytes: []byte("+OK Logged in.\r\n")},
	}
	got := testing.AllocsPerRun(100, func() {
		d := New()
		for _, c := range chunks {
			d.Feed(c)
		}
	})
	if got > 5 {
		t.Errorf("%v allocations for a connection, want at most 5", got)
	}
	d := New()
	d.Feed(chunks[0])
	got = testing.AllocsPerRun(100, func() {
		d.Feed(chunks[1])
		d.Feed(chunks[2])
	})
	if got != 0 {
		t.Errorf("%v allocations for CAPA and its answer, want 0", got)
	}
}

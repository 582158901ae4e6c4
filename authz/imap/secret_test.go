package imap

import (
	"encoding/base64"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/authz/line/linetest"
)

// TestCanary: a password, wherever it is typed but as a user name, is in no
// verdict, and in nothing that the dialogue keeps once its command was answered.
func TestCanary(t *testing.T) {
	const canary = linetest.Canary
	b64 := base64.StdEncoding.EncodeToString
	for _, lines := range [][]string{
		{"a LOGIN alice " + canary, "a NO no " + canary},
		{"a LOGIN alice " + canary, "a OK"},
		{"a LOGIN \"alice\" \"" + canary + "\"", "a NO"},
		{"a LOGIN alice " + canary + strings.Repeat("x", 1000), "a NO"},
		{"a LOGIN alice {18}", "+ ", canary, "a NO"},
		{"a LOGIN {5+}\r\nalice {18+}\r\n" + canary, "a NO"},
		{"a LOGIN alice bob " + canary, "a BAD " + canary},
		{canary, canary + " BAD missing command"},
		{canary + " LOGIN alice x", canary + " NO no"},
		{canary + " LOGIN alice x", canary + " OK yes"},
		{canary + " NOOP\r\nb NOOP", canary + " OK done\r\nb OK done"},
		{"a " + canary, "a BAD unknown " + canary},
		{"a ID (\"password\" \"" + canary + "\")", "a OK"},
		{"a AUTHENTICATE PLAIN", "+ ", b64([]byte("\x00alice\x00" + canary)), "a NO"},
		{"a AUTHENTICATE PLAIN " + b64([]byte("\x00alice\x00"+canary)), "a OK"},
		{"a AUTHENTICATE LOGIN", "+ ", b64([]byte("alice")), "+ ", b64([]byte(canary)), "a NO"},
		{"a AUTHENTICATE " + canary, "a NO"},
		{"a AUTHENTICATE OAUTHBEARER " + b64([]byte("n,a=alice,\x01auth=Bearer "+canary+"\x01\x01")), "a NO"},
		{"a LOGIN alice \x00" + canary},
	} {
		for _, drip := range []bool{false, true} {
			d := New()
			chunks := []authz.Chunk{{Dir: authz.FromServer, Bytes: []byte("* OK\r\n")}}
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
			if linetest.Holds(*d) || linetest.Holds(d.window[:cap(d.window)]) {
				t.Errorf("%q: the password is still in %#v", lines, *d)
			}
		}
	}
}

// TestAllocations: an ordinary connection costs a handful of allocations, all
// of them for the dialogue itself and the names in its verdicts.
func TestAllocations(t *testing.T) {
	chunks := []authz.Chunk{
		{Dir: authz.FromServer, Bytes: []byte("* OK ready\r\n")},
		{Dir: authz.FromClient, Bytes: []byte("a CAPABILITY\r\n")},
		{Dir: authz.FromServer, Bytes: []byte("* CAPABILITY IMAP4rev1\r\na OK done\r\n")},
		{Dir: authz.FromClient, Bytes: []byte("b LOGIN alice secret\r\n")},
		{Dir: authz.FromServer, Bytes: []byte("b OK Logged in\r\n")},
	}
	got := testing.AllocsPerRun(100, func() {
		d := New()
		for _, c := range chunks {
			d.Feed(c)
		}
	})
	if got > 6 {
		t.Errorf("%v allocations for a connection, want at most 6", got)
	}
	d := New()
	d.Feed(chunks[0])
	got = testing.AllocsPerRun(100, func() {
		d.Feed(chunks[1])
		d.Feed(chunks[2])
	})
	if got != 0 {
		t.Errorf("%v allocations for CAPABILITY and its answer, want 0", got)
	}
}

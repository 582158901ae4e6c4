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
	var talks [][]authz.Chunk
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
		talks = append(talks, linetest.Talk("* OK", lines...))
	}
	linetest.NoCanary(t, New, func(d *Dialogue) any { return d.window[:cap(d.window)] }, talks)
}

// TestAllocations: an ordinary connection costs a handful of allocations, all
// of them for the dialogue itself and the names in its verdicts.
func TestAllocations(t *testing.T) {
	linetest.Allocates(t, New, 6, linetest.Talk("* OK ready",
		"a CAPABILITY", "* CAPABILITY IMAP4rev1\r\na OK done", "b LOGIN alice secret", "b OK Logged in"))
}

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
	var talks [][]authz.Chunk
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
		talks = append(talks, linetest.Talk("+OK", lines...))
	}
	linetest.NoCanary(t, New, func(d *Dialogue) any { return d.waiting[:cap(d.waiting)] }, talks)
}

// TestAllocations: an ordinary connection costs a handful of allocations, all
// of them for the dialogue itself and the names in its verdicts.
func TestAllocations(t *testing.T) {
	linetest.Allocates(t, New, 5, linetest.Talk("+OK ready",
		"CAPA", "+OK\r\nUSER\r\nUIDL\r\n.", "USER alice", "+OK", "PASS secret", "+OK Logged in."))
}

package pop3

import (
	"testing"

	"relaygate/authz"
	"relaygate/authz/line/linetest"
)

// A line that one segment brought is read at once: what it holds is no command to
// anybody, and its login counts as soon as it is accepted. One of which the segments
// were acknowledged together is no such line, nor is one that is longer than what some
// servers read at once.
func TestLineOfOneSegment(t *testing.T) {
	long := "anna.langen"
	for len(long) < maxShort {
		long += "@langen.example"
	}
	for _, tt := range []struct {
		name, user, pass string
		whole            bool
		want             string // behind the answer to PASS
	}{
		{"a name that holds a command", "anna@langen.example", "secret", true, "success USER anna@langen.example"},
		{"the same in several segments", "anna@langen.example", "secret", false, ""},
		{"a password that ends with one", "alice", "slang", true, "success USER alice"},
		{"the same in several segments", "alice", "slang", false, ""},
		{"a name that is too long to be read at once", long, "secret", true, ""},
	} {
		d := New()
		var told string
		for i, c := range linetest.Talk("+OK ready", "USER "+tt.user, "+OK", "PASS "+tt.pass, "+OK") {
			c.Whole = tt.whole && c.Dir == authz.FromClient
			if got := d.Feed(c); len(got) > 0 {
				told = linetest.String(got[0])
			} else if i == 4 && tt.want != "" {
				t.Errorf("%s: nothing is told", tt.name)
			}
		}
		if told != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, told, tt.want)
		}
	}
}

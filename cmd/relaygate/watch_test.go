package main

import (
	"strings"
	"testing"
)

// The columns of a watch stand below each other, whatever is in them: long addresses
// widen theirs, and characters that take two columns count so.
func TestWatchIsAligned(t *testing.T) {
	e, out, _ := testEnv()
	clients := 15
	for _, line := range []string{
		`{"event":"grant","time":"2026-01-02T03:04:05.000000Z","client":"192.0.2.7","protocol":"pop3","user":"alice","reason":"first"}`,
		`{"event":"grant","time":"2026-01-02T03:04:05.000000Z","client":"2001:db8:1234:5678:9abc:def0:1234:5678","user":"bob","reason":"second"}`,
		`{"event":"login","result":"success","time":"2026-01-02T03:04:05.000000Z","client":"192.0.2.8","user":"名前","reason":"third"}`,
		`{"event":"gate","time":"2026-01-02T03:04:05.000000Z","user":"\u001b[2J","reason":"fourth"}`,
	} {
		must(t, printEvent(e, []byte(line), &clients))
	}
	var at []int
	for line := range strings.Lines(out.String()) {
		for _, reason := range []string{"first", "second", "third", "fourth"} {
			if before, _, ok := strings.Cut(line, reason); ok {
				at = append(at, columns(before))
			}
		}
	}
	const narrow, wide = 82, 82 + 38 - 15
	if len(at) != 4 || at[0] != narrow || at[1] != wide || at[2] != wide || at[3] != wide || strings.Contains(out.String(), "\x1b") {
		t.Errorf("the reasons stand at %v, want %d and then %d\n%s", at, narrow, wide, out)
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/bench/traffic"
)

// TestBarSparesLines: where the bar and the lines share a terminal, a person sees the
// lines that a file would hold, each whole and nothing beside it.
func TestBarSparesLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.pcap")
	f, err := os.Create(file)
	must(t, err)
	if _, err := traffic.Generate(f, traffic.Logins(4000)); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	for _, verb := range [][]string{{"replay"}, {"replay", "--json"}} {
		print := func(terminal bool) string {
			var screen bytes.Buffer
			now := time.Unix(0, 0)
			e := &env{
				Stdin: strings.NewReader(""), Stdout: &screen, Stderr: &screen, OutTerminal: terminal, ErrTerminal: terminal,
				Now:    func() time.Time { now = now.Add(time.Second); return now },
				Getenv: func(string) string { return "" },
			}
			must(t, run(t.Context(), e, append(verb, file)))
			return screen.String()
		}
		drawn := print(true)
		if n := strings.Count(drawn, " %"); n < 2 {
			t.Errorf("%v: the bar was drawn %d times", verb, n)
		}
		// What a terminal makes of a line that is begun again and cleared.
		seen := regexp.MustCompile(`[^\n]*\r\x1b\[K`).ReplaceAllString(drawn, "")
		if want := print(false); seen != want {
			t.Errorf("%v: on a terminal there are %d lines, in a file %d, or they differ", verb, strings.Count(seen, "\n"), strings.Count(want, "\n"))
		}
	}
}

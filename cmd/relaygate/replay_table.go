package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// table prints verdicts for people, one per line.
type table struct {
	w     *bufio.Writer
	begun bool
}

const tableRow = "%-26s  %-28s  %-28s  %-5s %-14s %-24s %-9s  %s"

func (t *table) print(v *engine.Verdict) error {
	if !t.begun {
		t.begun = true
		if err := t.row("TIME (UTC)", "CLIENT", "SERVER", "PROTO", "MECHANISM", "USER", "RESULT", "REASON"); err != nil {
			return err
		}
	}
	return t.row(v.Time.UTC().Format("2006-01-02 15:04:05.000000"),
		v.Conn.Client, v.Conn.Server, v.Conn.Service.Protocol, orDash(authz.Quote(v.Mechanism)),
		control.UserText(v), v.Result, control.ReasonText(v))
}

func (t *table) flush() error { return t.w.Flush() }

func (t *table) row(columns ...any) error {
	_, err := fmt.Fprintln(t.w, strings.TrimRight(fmt.Sprintf(tableRow, columns...), " "))
	return err
}

// summary counts over all files.
type summary struct {
	packets, flows uint64
	results        [authz.Encrypted + 1]uint64
	reasons        map[string]uint64
}

func newSummary() *summary {
	return &summary{reasons: make(map[string]uint64)}
}

func (s *summary) verdict(v *engine.Verdict) {
	s.results[v.Result]++
	if v.Result == authz.Tainted {
		s.reasons[v.Reason]++
	}
}

func (s *summary) file(packets uint64, r *engine.Reader) {
	s.packets += packets
	s.flows += r.Flows().Opened
}

func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %s: %s, %d refused, %d tainted, %d encrypted\n", count(s.packets, "packet"), count(s.flows, "flow"),
		count(s.results[authz.Success], "login"), s.results[authz.Failure], s.results[authz.Tainted], s.results[authz.Encrypted])
	reasons := slices.SortedFunc(maps.Keys(s.reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.reasons[b], s.reasons[a]), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		fmt.Fprintf(w, "  %6d tainted: %s\n", s.reasons[reason], reason)
	}
}

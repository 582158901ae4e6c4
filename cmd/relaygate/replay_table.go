package main

import (
	"bufio"
	"cmp"
	"fmt"
	"strings"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// table prints verdicts for people, one per line.
type table struct {
	w     *bufio.Writer
	begun bool
}

const tableRow = "%-26s  %-28s  %-28s  %-5s %s %s %-9s  %s"

func (t *table) print(v *authz.Verdict) error {
	if !t.begun {
		t.begun = true
		if err := t.row("TIME (UTC)", "CLIENT", "SERVER", "PROTO", pad("MECHANISM", 14), pad("USER", 24), "RESULT", "REASON"); err != nil {
			return err
		}
	}
	return t.row(v.Time.UTC().Format("2006-01-02 15:04:05.000000"),
		v.Conn.Client, v.Conn.Server, v.Conn.Service.Protocol, pad(cmp.Or(authz.Quote(v.Mechanism), "-"), 14),
		pad(control.UserText(v), 24), v.Result, control.ReasonText(v))
}

func (t *table) flush() error { return t.w.Flush() }

// row writes whole lines alone, so that a bar on the same terminal cuts none.
func (t *table) row(columns ...any) error {
	line := strings.TrimRight(fmt.Sprintf(tableRow, columns...), " ") + "\n"
	if len(line) > t.w.Available() {
		if err := t.w.Flush(); err != nil {
			return err
		}
	}
	_, err := t.w.WriteString(line)
	return err
}

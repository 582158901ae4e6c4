package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"relaygate/authz"
)

// say prints a line.
func (e *env) say(format string, args ...any) { fmt.Fprintf(e.Stdout, format+"\n", args...) }

// printJSON prints one object per line.
func printJSON[T any](e *env, list ...T) error {
	enc := json.NewEncoder(e.Stdout)
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
	}
	return nil
}

// relative tells a time as people do: "12 min ago", "in 17 min".
func relative(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := t.Sub(now).Round(time.Second)
	switch {
	case d < 0:
		return authz.Ago(-d)
	case d == 0:
		return "now"
	}
	return "in " + authz.Span(d)
}

// clock tells a time of today by its hour, any other by its day.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}

// byCount lists what was counted, the most frequent first.
func byCount(counts map[string]uint64) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

// The colours of a terminal.
const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// colour paints s where a person looks at it.
func colour(e *env, paint, s string) string {
	if !e.OutTerminal || e.Getenv("NO_COLOR") != "" || e.Getenv("TERM") == "dumb" {
		return s
	}
	return paint + s + plain
}

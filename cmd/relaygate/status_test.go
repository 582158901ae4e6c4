package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
)

func TestStatusNamesDoubts(t *testing.T) {
	var out bytes.Buffer
	e := &env{Stdout: &out, Now: func() time.Time { return time.Unix(0, 0) }}
	printStatus(e, &control.Status{Tainted: 12, Doubts: map[string]uint64{
		"literal is too long": 2, "the capture starts inside the session": 7, "client line is too long": 2, "other": 1,
	}})
	want := "Doubt:   12 connections: 7 the capture starts inside the session, 2 client line is too long, 2 literal is too long, 1 other.\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("status says\n%swant the line\n%s", out.String(), want)
	}
	out.Reset()
	printStatus(e, &control.Status{})
	if strings.Contains(out.String(), "Doubt") {
		t.Errorf("status speaks of doubt where none is:\n%s", out.String())
	}
}

// What only orders opened has no answer of a server before it.
func TestStatusOfOrdersTellsNoDelay(t *testing.T) {
	for delay, want := range map[time.Duration]bool{0: false, time.Millisecond: true} {
		var out bytes.Buffer
		var s control.Status
		s.Gate.Adds, s.Gate.LastDelay.Duration, s.Gate.MaxDelay.Duration = 2, delay, delay
		printStatus(&env{Stdout: &out, Now: func() time.Time { return time.Unix(0, 0) }}, &s)
		if got := strings.Contains(out.String(), "last 1.00 ms, longest 1.00 ms"); got != want || !want && strings.Contains(out.String(), "longest") {
			t.Errorf("%v:\n%s", delay, &out)
		}
	}
}

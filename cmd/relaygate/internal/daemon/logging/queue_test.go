package logging

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz/grant"
)

// stuck is a log that nobody reads.
type stuck struct {
	free chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.free
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

func TestLogNeverWaitsForItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // else what takes long is read meanwhile
		s := &stuck{free: make(chan struct{})}
		q := newQueue(s, false)
		const length, more = len("line 00000000\n"), 100
		for i := range maxQueued/length + more {
			if n, err := fmt.Fprintf(q, "line %08d\n", i); n != length || err != nil {
				t.Fatalf("line %d: %d, %v", i, n, err)
			}
		}
		close(s.free)
		q.close()
		if got := s.got.String(); !strings.Contains(got, "lines of the log were dropped") || !strings.Contains(got, "line 00000000\n") {
			t.Errorf("the log does not tell what was dropped:\n%.300s", got)
		}
		if got := q.total.Load(); got != more {
			t.Errorf("%d lines counted as dropped, want %d", got, more)
		}
	})
}

// A log that nobody reads ends nothing late.
func TestEndWaitsForNoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stuck{free: make(chan struct{})}
		q := newQueue(s, false)
		fmt.Fprintln(q, "line")
		time.Sleep(2 * gather)
		began := time.Now()
		q.close()
		if took := time.Since(began); took > lastWithin {
			t.Errorf("the end took %v", took)
		}
		close(s.free)
	})
}

// Lines gather: the writer wakes once for many.
func TestLogGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got writes
		q := newQueue(&got, false)
		for range 1000 {
			fmt.Fprintln(q, "line")
		}
		synctest.Wait()
		if got := got.all(); len(got) != 0 {
			t.Errorf("%d writes at once, want none", len(got))
		}
		time.Sleep(gather)
		synctest.Wait()
		if got := got.all(); len(got) != 1 || strings.Count(got[0], "line\n") != 1000 {
			t.Errorf("%d writes after a while, want all lines in one", len(got))
		}
		fmt.Fprintln(q, "last")
		q.close()
		if got := got.all(); len(got) != 2 || got[1] != "last\n" {
			t.Errorf("%q was written at the end", got[1:])
		}
	})
}

// Each line tells the journal its priority, whatever else it says; no line does where
// nobody takes that away.
func TestPriorities(t *testing.T) {
	for _, journal := range []bool{true, false} {
		var got bytes.Buffer
		log := New(&got, journal)
		log.Info("level=ERROR")
		log.Warn("level=INFO")
		log.Error("two\nlines")
		log.Change(time.Now(), &grant.Change{Kind: grant.Granted, Reason: "level=ERROR"})
		log.Change(time.Now(), &grant.Change{Kind: grant.Refused, Reason: "level=WARN"})
		log.queue.mu.Lock()
		log.queue.dropped = 7
		log.queue.mu.Unlock()
		log.Close()
		lines := strings.Split(strings.TrimSuffix(got.String(), "\n"), "\n")
		want := []string{"<6>", "<4>", "<3>", "<6>", "<6>", "<4>"}
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &got)
		}
		for i, line := range lines {
			priority, rest := "", line
			if journal {
				priority, rest = line[:3], line[3:]
			}
			if journal && priority != want[i] || !strings.HasPrefix(rest, "time=") && !strings.HasPrefix(rest, "level=WARN") {
				t.Errorf("journal %v: %q, want %q and a line of the log", journal, line, want[i])
			}
		}
	}
}

// writes keeps what is written to it.
type writes struct {
	mu   sync.Mutex
	list []string
}

func (w *writes) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, string(b))
	return len(b), nil
}

func (w *writes) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.list)
}

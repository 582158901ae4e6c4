package flow

import (
	"bytes"
	"math"
	"slices"
	"testing"
)

// delayed is what the tap shows late.
type delayed struct {
	at int // when, in events
	s  step
}

// show shows what was delayed up to now.
func (m *model) show(t *testing.T, now int) {
	slices.SortStableFunc(m.delayed, func(a, b delayed) int { return a.at - b.at })
	for len(m.delayed) > 0 && m.delayed[0].at <= now {
		m.shown(t, m.delayed[0].s)
		m.delayed = m.delayed[1:]
	}
}

// newLateModel is one of a file in which each packet is shown late, by less than what it
// may.
func newLateModel(seed uint64, faulty, evil bool) *model {
	m := newModel(seed, faulty, evil)
	for m.mode.live() {
		m.mode = mode(m.rng.IntN(len(modes)))
	}
	m.late, m.table = true, New(Config{Services: services, Limits: m.table.limits, Late: lateness})
	return m
}

// TestModelLate: the same where the packets come late, each by another time.
func TestModelLate(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1500) {
		m := newLateModel(seed, seed%4 != 0, false)
		m.run(t, 20000)
		m.show(t, math.MaxInt)
		m.judge(t)
		if m.tainted != "" || !bytes.Equal(m.released, m.stream) || len(m.answered) != len(m.written) {
			t.Fatalf("seed %d: tainted %q, %d of %d client bytes, %d of %d server bytes",
				seed, m.tainted, len(m.released), len(m.stream), len(m.answered), len(m.written))
		}
	}
}

// TestModelLateDecoys: whatever a client sends then, what was released and the server did
// not read is tainted once all was shown.
func TestModelLateDecoys(t *testing.T) {
	t.Parallel()
	whole, tainted := 0, 0
	for seed := range uint64(5000) {
		m := newLateModel(seed, seed%4 != 0, true)
		m.run(t, 400)
		m.show(t, math.MaxInt)
		if m.tainted != "" {
			tainted++
			continue
		}
		if m.judge(t); len(m.released) > 20 {
			whole++
		}
	}
	t.Logf("%d tainted, %d with released bytes", tainted, whole)
	if tainted < 1000 || whole < 200 {
		t.Errorf("the model shows little: %d tainted, %d with released bytes", tainted, whole)
	}
}

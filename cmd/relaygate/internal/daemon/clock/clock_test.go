package clock

import (
	"testing"
	"time"
)

func TestSleepIsNoneWhileAwake(t *testing.T) {
	var s Sleep
	for range 3 {
		if got := s.Since(); got != 0 {
			t.Errorf("slept %v", got)
		}
	}
	s.ahead -= time.Hour // as if the clocks had been together before
	if got := s.Since().Round(time.Second); got != time.Hour {
		t.Errorf("slept %v, want an hour", got)
	}
	if got := s.Since(); got != 0 {
		t.Errorf("slept %v, told twice", got)
	}
}

// The first sleep counts as any other, also of a machine that never slept before.
func TestEachSleepCounts(t *testing.T) {
	for _, before := range []time.Duration{0, 100 * time.Nanosecond, 8 * time.Hour} {
		var s Sleep
		for i, step := range []struct{ ahead, want time.Duration }{
			{0, 0}, {time.Microsecond, 0}, {time.Hour, time.Hour}, {time.Hour, 0}, {3 * time.Hour, 2 * time.Hour},
		} {
			if got := s.slept(before + step.ahead); got.Round(time.Millisecond) != step.want {
				t.Errorf("clocks %v apart at the start, look %d: slept %v, want %v", before, i, got, step.want)
			}
		}
	}
}

package bpf

import "testing"

func TestShiftsOfATimeNamespace(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0,
		"monotonic           0         0\nboottime            0         0\n": 0,
		"monotonic       86400         5\nboottime            0         0\n": 86400e9 + 5,
		"boottime            7         0\nmonotonic         -60 500000000\n": -60e9 + 5e8,
		"monotonic soon\n": 0,
	} {
		if got := parseShifts(text)["monotonic"]; got != want {
			t.Errorf("%q shifts CLOCK_MONOTONIC by %d ns, want %d", text, got, want)
		}
	}
}

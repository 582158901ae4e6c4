package flow

import (
	"testing"
	"time"

	"relaygate/capture"
)

// at feeds a step at a time of its own.
func at(table *Table, m mode, after time.Duration, s step) string {
	var st story
	var ev capture.Event
	s(m, &ev)
	ev.Time = start.Add(after)
	st.add(table.Feed(&ev))
	return st.String()
}

func TestIdle(t *testing.T) {
	const idle = 35 * time.Minute
	other := from(nthAddr(1), syn())
	tests := []struct {
		name  string
		mode  mode
		steps []step
		after time.Duration
		want  string
	}{
		{"not yet", cooked, shake(), idle - time.Minute, ""},
		{"silent", cooked, shake(), idle + 2*time.Minute, ")"},
		{"silent after an RST of the client", cooked, shake(cl(0, "", flags(capture.RST))), 7 * time.Minute, ")"},
		{"silent after an RST that the server answered", cooked, shake(cl(9, "", flags(capture.RST)), sv(0, 0, "")), idle - time.Minute, ""},
		{"silent with a hole", cooked, shake(sv(1, 0, "2")), idle + 2*time.Minute, "!" + reasonServerGap + ")"},
		{"the kernel ends live flows", liveTap, []step{opened}, idle * 100, ""},
		{"a clock that jumps back", cooked, shake(), -idle * 100, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(Limits{})
			tell(t, table, tt.mode, tt.steps)
			if got := at(table, cooked, tt.after, other); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// In a file the minute before must tell that the clock is the right one.
			table = newLeavingTable(Limits{})
			tell(t, table, tt.mode, tt.steps)
			got := at(table, cooked, tt.after-time.Minute, other) + at(table, cooked, tt.after, other)
			if want := closedAfterTaint.ReplaceAllString(tt.want, "$1"); got != want {
				t.Errorf("in a file: got %q, want %q", got, want)
			}
		})
	}
	table := newTable(Limits{})
	at(table, cooked, idle*1000, syn()) // a clock from the future, then the right one
	tell(t, table, cooked, shake())
	if got := at(table, cooked, idle+2*time.Minute, other); got != ")" {
		t.Errorf("after a clock from the future: %q", got)
	}
}

// Packets of two clocks that are hours apart, as in files that were joined: each
// goes by its own.
func TestIdleOfTwoClocks(t *testing.T) {
	table := newLeavingTable(Limits{})
	got := ""
	for i, s := range shake(cl(0, "AB"), sv(0, 2, "1")) {
		after := time.Duration(i) * time.Second
		at(table, cooked, after+3*time.Hour, from(nthAddr(i), syn()))
		got += at(table, cooked, after, s)
	}
	if got != "("+loggedIn {
		t.Errorf("got %q", got)
	}
}

// A clock that goes to and fro makes no packet cost a walk over all slots, and what
// is idle is found all the same.
func TestIdleIsPaidFor(t *testing.T) {
	table := newLeavingTable(Limits{})
	for i := range 4 * pageSize {
		tell(t, table, cooked, each(nthAddr(i), shake()))
	}
	other := from(nthAddr(4*pageSize), syn())
	const events = 10_000
	for i := range events { // back and forth by what makes it look
		at(table, cooked, time.Duration(i/2+i%2*2)*time.Minute, other)
	}
	if looked, most := table.swept, int64(freeSlots+slotsPerEvent*(events+20*pageSize)); looked > most {
		t.Errorf("%d slots were looked at, want %d at most", looked, most)
	}
	if left := table.Stats().Open; left != 0 {
		t.Errorf("%d flows are left", left)
	}
}

package grant

import (
	"net/netip"
	"testing"
	"time"
)

const m = time.Minute

func held(id uint64, client, user string, begin time.Duration) Session {
	return Session{ID: id, Client: netip.MustParseAddr(client), User: user, Begin: at(begin)}
}

// through lets time pass with a look each time the table wants one, and returns
// the changes that people are told.
func through(t *testing.T, table *Table, end time.Duration) []Change {
	t.Helper()
	var told []Change
	look := func(now time.Time) {
		for _, c := range table.Expire(now) {
			if c.Kind != Rearmed {
				told = append(told, c)
			}
		}
	}
	for next, ok := table.Next(); ok && !next.After(at(end)); next, ok = table.Next() {
		look(next)
	}
	look(at(end))
	return told
}

func TestAnOpenSessionHoldsItsGrant(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(*Table)
		ends time.Duration
	}{
		{"none", func(*Table) {}, 30 * m},
		{"three lifetimes", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			through(t, table, 90*m)
			table.Release(at(90*m), held(1, "203.0.113.7", "", 0), time.Time{})
		}, 120 * m},
		{"mapped address", func(table *Table) {
			table.Hold(at(0), held(1, "::ffff:203.0.113.7", "alice", 0))
			through(t, table, 40*m)
			table.Release(at(40*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
		}, 70 * m},
		{"the last of two counts", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Hold(at(0), held(2, "203.0.113.7", "alice", 0))
			table.Hold(at(0), held(2, "203.0.113.7", "alice", 0)) // told twice
			table.Release(at(1*m), held(2, "203.0.113.7", "alice", 0), time.Time{})
			through(t, table, 50*m)
			table.Release(at(50*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
			table.Release(at(55*m), held(1, "203.0.113.7", "alice", 0), time.Time{}) // again: nothing
		}, 80 * m},
		{"closed at once", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Release(at(1*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
		}, 31 * m},
		{"nothing heard since the login", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Release(at(15*m), held(1, "203.0.113.7", "alice", 0), at(0))
		}, 30 * m},
		{"heard before its begin", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Release(at(15*m), held(1, "203.0.113.7", "alice", 0), at(-1000*time.Hour))
		}, 30 * m},
		{"heard in the future", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Release(at(15*m), held(1, "203.0.113.7", "alice", 0), at(1000*time.Hour))
		}, 45 * m},
		{"silent, but the kernel was promised more", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			through(t, table, 27*m) // rearmed at 26:15 until 56:15
			table.Release(at(27*m), held(1, "203.0.113.7", "alice", 0), at(12*m))
		}, 56*m + 15*time.Second},
		{"max_session", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
		}, 150 * m},
		{"max_session counts from the begin", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", -60*m))
		}, 90 * m},
		{"heard again after silence", func(table *Table) {
			table.Hold(at(0), held(1, "203.0.113.7", "alice", 0))
			table.Release(at(15*m), held(1, "203.0.113.7", "alice", 0), at(1*m))
			table.Hold(at(20*m), held(1, "203.0.113.7", "alice", 0))
			through(t, table, 60*m)
			table.Release(at(60*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
		}, 90 * m},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, Config{Follow: true, MaxSession: 120 * m})
			must(t, table, start, "203.0.113.7", "alice", Granted)
			tt.play(table)
			if told := through(t, table, tt.ends-tick); len(told) != 0 {
				t.Errorf("closed too early: %+v", told)
			}
			if told := through(t, table, tt.ends); len(told) != 1 || told[0].Kind != Expired {
				t.Errorf("changes after %v: %+v, want one expiry", tt.ends, told)
			}
			empty(t, table)
		})
	}
}

func TestWhatHoldsNothing(t *testing.T) {
	off := newTable(t, Config{})
	must(t, off, start, "203.0.113.7", "alice", Granted)
	if off.Hold(start, held(1, "203.0.113.7", "alice", 0)) {
		t.Error("a session is followed although that is off")
	}
	table := newTable(t, Config{Follow: true, MaxSessions: 1})
	if table.Hold(start, held(1, "203.0.113.7", "alice", 0)) || table.Hold(start, Session{}) {
		t.Error("a session holds what is not granted")
	}
	table.Release(start, Session{}, start)
	must(t, table, start, "203.0.113.7", "alice", Granted)
	if !table.Hold(start, held(1, "203.0.113.7", "alice", 0)) || table.Hold(start, held(2, "203.0.113.7", "alice", 0)) {
		t.Error("the bound does not hold")
	}
	if d := table.Dropped(); d.Sessions != 1 || table.Followed() != 1 {
		t.Errorf("%d not followed, %d followed", d.Sessions, table.Followed())
	}
	if g, _ := table.Get(netip.MustParseAddr("203.0.113.7")); g.Sessions != 1 {
		t.Errorf("%d sessions are shown", g.Sessions)
	}
	table.Revoke(at(m), netip.MustParsePrefix("203.0.113.7/32"), "", "test")
	empty(t, table)
	// What it held before is not what it holds now.
	must(t, table, at(2*m), "203.0.113.7", "bob", Granted)
	table.Release(at(20*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
	if g, _ := table.Get(netip.MustParseAddr("203.0.113.7")); !g.Expires.Equal(at(32 * m)) {
		t.Errorf("the close of a revoked session moved another grant to %v", g.Expires.Sub(start))
	}
}

// A grant that a session holds counts for its user as long as it stands.
func TestBrakesCountWhatSessionsHold(t *testing.T) {
	table := newTable(t, Config{Follow: true, MaxAddresses: 1, MaxUsers: 1})
	if _, ok := table.Manual(start, netip.MustParsePrefix("203.0.113.7/32"), 100*time.Hour, "root (uid 0)", ""); !ok {
		t.Fatal("not granted")
	}
	must(t, table, start, "203.0.113.7", "alice", Renewed)
	table.Hold(start, held(1, "203.0.113.7", "alice", 0))
	through(t, table, 200*m)
	must(t, table, at(200*m), "203.0.113.8", "alice", Refused)
	must(t, table, at(200*m), "203.0.113.7", "bob", Refused)
	table.Release(at(200*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
	through(t, table, 229*m)
	must(t, table, at(229*m), "203.0.113.8", "alice", Refused)
	through(t, table, 230*m)
	must(t, table, at(230*m), "203.0.113.8", "alice", Granted)
}

// The kernel is told in time, and not with every login.
func TestLazyArming(t *testing.T) {
	table := newTable(t, Config{Lifetime: 80 * m}) // slack: 10 min
	if c := must(t, table, start, "203.0.113.7", "alice", Granted); !c.Arm {
		t.Error("a new grant is not armed")
	}
	for _, tt := range []struct {
		when time.Duration
		arm  bool
	}{{4 * m, false}, {10 * m, false}, {11 * m, true}, {12 * m, false}, {50 * m, true}} {
		if c := must(t, table, at(tt.when), "203.0.113.7", "alice", Renewed); c.Arm != tt.arm || !c.Grant.Expires.Equal(at(tt.when+80*m)) {
			t.Errorf("login at %v: arm %v until %v", tt.when, c.Arm, c.Grant.Expires.Sub(start))
		}
	}
	must(t, table, at(55*m), "203.0.113.7", "alice", Renewed) // armed until 130, promised until 135
	if got := table.Expire(at(120*m - tick)); len(got) != 0 {
		t.Errorf("rearmed early: %+v", got)
	}
	got := table.Expire(at(120 * m))
	if len(got) != 1 || got[0].Kind != Rearmed || !got[0].Arm || !got[0].Grant.Expires.Equal(at(135*m)) || got[0].Event().Kind != 0 {
		t.Errorf("Expire = %+v, want it rearmed until 135m", got)
	}
	if got := through(t, table, 134*m); len(got) != 0 {
		t.Errorf("closed early: %+v", got)
	}
	if got := table.Expire(at(135 * m)); len(got) != 1 || got[0].Kind != Expired {
		t.Errorf("Expire = %+v", got)
	}
}

func TestProject(t *testing.T) {
	table := newTable(t, Config{Follow: true, IPv6Prefix: 64})
	for i, c := range []string{"203.0.113.7", "2001:db8::7", "203.0.113.8"} {
		must(t, table, start, c, []string{"a", "b", "c"}[i], Granted)
	}
	table.Manual(start, netip.MustParsePrefix("192.0.2.0/30"), time.Hour, "root (uid 0)", "")
	table.Hold(start, held(1, "203.0.113.7", "a", 0))
	got := map[string]time.Duration{}
	for p, until := range table.Project(at(20 * m)) {
		got[p.String()] = until.Sub(start)
	}
	want := map[string]time.Duration{
		"203.0.113.7/32": 50 * m, "203.0.113.8/32": 30 * m, "2001:db8::/64": 30 * m,
		"192.0.2.0/32": 60 * m, "192.0.2.1/32": 60 * m, "192.0.2.2/32": 60 * m, "192.0.2.3/32": 60 * m,
	}
	for p, until := range want {
		if got[p] != until {
			t.Errorf("%s until %v, want %v", p, got[p], until)
		}
	}
	if len(got) != len(want) {
		t.Errorf("Project = %v", got)
	}
	// To project tells the kernel nothing: it is told in time.
	told := func(now time.Duration) string {
		for p, until := range table.Told(at(now)) {
			if p.Addr() == addr("203.0.113.7") {
				return until.Sub(start).String()
			}
		}
		return ""
	}
	if got := told(20 * m); got != "30m0s" {
		t.Errorf("told until %s", got)
	}
	if got := through(t, table, 27*m); len(got) != 0 {
		t.Errorf("Expire: %s", kinds(got))
	}
	if got := told(27 * m); got != "56m15s" {
		t.Errorf("told until %s", got)
	}
	if got := through(t, table, 30*m); kinds(got) != "[expired 203.0.113.8/32 expired 2001:db8::/64]" {
		t.Errorf("Expire: %s", kinds(got))
	}
	for p := range table.Told(at(30 * m)) { // what ran out is not written again
		if p.Addr() == addr("203.0.113.8") {
			t.Error("what ran out is to be in the kernel")
		}
	}
	if got := told(57 * m); got != "1h27m0s" { // Expire was not called in time
		t.Errorf("told until %s", got)
	}
}

// An address that became shared runs out, whoever has a session open there.
func TestSessionsDoNotHoldASharedAddress(t *testing.T) {
	table := newTable(t, Config{Follow: true, MaxUsers: 1})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	table.Hold(start, held(1, "203.0.113.7", "alice", 0))
	through(t, table, 10*m)
	must(t, table, at(10*m), "203.0.113.7", "bob", Refused)
	if table.Hold(at(10*m), held(2, "203.0.113.7", "bob", 10*m)) || table.Hold(at(11*m), held(1, "203.0.113.7", "alice", 0)) || table.Followed() != 0 {
		t.Error("a session holds a shared address")
	}
	table.Release(at(12*m), held(1, "203.0.113.7", "alice", 0), time.Time{})
	if got := through(t, table, 40*m); kinds(got) != "[expired 203.0.113.7/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
}

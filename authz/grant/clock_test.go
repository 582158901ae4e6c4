package grant

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz"
)

// Once in a year the clock of the table is set back; nobody sees it.
func TestClockIsSetBack(t *testing.T) {
	table := newTable(t, Config{Follow: true, MaxAddresses: 1})
	const years = 3 * 366 * 24 * time.Hour
	step := 24 * 29 * time.Hour
	for d := time.Duration(0); d < years; d += step {
		through(t, table, d)
		c := must(t, table, at(d), "203.0.113.7", "alice", Granted)
		if !c.Grant.Since.Equal(at(d)) || !c.Grant.Expires.Equal(at(d+30*m)) {
			t.Fatalf("after %v: %v to %v", d, c.Grant.Since, c.Grant.Expires)
		}
		if c, _ := table.Manual(at(d), pfx("203.0.113.8/32"), MaxLifetime, root, ""); c.Kind == Refused {
			t.Fatalf("after %v: %+v", d, c)
		}
		table.Hold(at(d), Session{ID: 1, Client: addr("203.0.113.7"), User: "alice", Begin: at(d)})
		must(t, table, at(d+time.Second), "203.0.113.9", "alice", Refused)
		if g, _ := table.Get(addr("203.0.113.8")); !g.Expires.Equal(at(d + time.Second).Add(MaxLifetime - time.Second)) {
			t.Fatalf("after %v: manual until %v", d, g.Expires)
		}
	}
	if table.clock.base.Before(start) {
		t.Error("the clock was never set back")
	}
	through(t, table, years+MaxLifetime)
	empty(t, table)
}

func TestGrantsOutliveTheClockSetBack(t *testing.T) {
	const day = 24 * time.Hour
	table := newTable(t, Config{Follow: true, MaxSession: 200 * day /* cut to 180 */})
	table.Manual(at(300*day), pfx("203.0.113.8/32"), 100*day, root, "")
	must(t, table, at(300*day), "203.0.113.7", "alice", Granted)
	table.Hold(at(300*day), Session{ID: 1, Client: addr("203.0.113.7"), User: "alice", Begin: at(299 * day)})
	if told := through(t, table, 390*day); len(told) != 0 || table.clock.base.Before(start) {
		t.Fatalf("%+v, base %v", told, table.clock.base)
	}
	if g, _ := table.Get(addr("203.0.113.8")); !g.Since.Equal(at(300*day)) || !g.Expires.Equal(at(400*day)) {
		t.Errorf("%v to %v", g.Since, g.Expires)
	}
	if got := through(t, table, 400*day); kinds(got) != "[expired 203.0.113.8/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
	if told := through(t, table, 479*day+30*m-tick); len(told) != 0 {
		t.Errorf("too early: %+v", told)
	}
	if got := through(t, table, 479*day+30*m); kinds(got) != "[expired 203.0.113.7/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
}

func TestSlept(t *testing.T) {
	table := newTable(t, Config{})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	table.Slept(20 * m)
	if g, _ := table.Get(addr("203.0.113.7")); !g.Expires.Equal(at(10 * m)) {
		t.Errorf("until %v", g.Expires.Sub(start))
	}
	if got := table.Expire(at(10 * m)); len(got) != 1 || got[0].Kind != Expired {
		t.Errorf("Expire: %+v", got)
	}
}

func TestMonotonicTime(t *testing.T) {
	// Inside a bubble, time.Now has a monotonic reading as it has outside.
	synctest.Test(t, func(t *testing.T) {
		table := New(Config{Lifetime: 30 * time.Minute})
		now := time.Now()
		table.SetPolicy(now, policy(t, authz.Host{}, authz.Rules{}))
		if _, ok := table.Login(now, login("203.0.113.7", "alice")); !ok {
			t.Fatal("not granted")
		}
		time.Sleep(10 * time.Minute)
		g, _ := table.Get(netip.MustParseAddr("203.0.113.7"))
		if left := time.Until(g.Expires); left != 20*time.Minute {
			t.Errorf("%v left, want 20m", left)
		}
	})
}

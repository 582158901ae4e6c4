package grant

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

// What closes very many grants tells of some of them, and that the gate must be
// written anew.
func TestManyAtOnce(t *testing.T) {
	const n = maxChanges + 10
	for _, tt := range []struct {
		name string
		do   func(*Table, time.Time) []Change
		kind Kind
		left int
	}{
		{"pause", func(table *Table, now time.Time) []Change { return table.Pause(now, root, "")[1:] }, Revoked, 0},
		{"deny", func(table *Table, now time.Time) []Change { return table.Deny(now, pfx("11.0.0.0/8"), 0, root, "")[1:] }, Revoked, n / 4},
		{"revoke", func(table *Table, now time.Time) []Change { return table.Revoke(now, pfx("::/0"), root, "x") }, Revoked, n - n/4},
		{"policy", func(table *Table, now time.Time) []Change { return table.SetPolicy(now, nil) }, Revoked, 0},
		{"config", func(table *Table, now time.Time) []Change { return table.SetConfig(now, Config{Lifetime: m}) }, Rearmed, n},
		{"expire", func(table *Table, now time.Time) []Change { return table.Expire(now.Add(time.Hour)) }, Expired, 10},
	} {
		table := newTable(t, Config{})
		million(table, n)
		now := at(m)
		got := tt.do(table, now)
		want := min(n-tt.left, maxChanges)
		if tt.kind == Rearmed {
			want = maxChanges
		}
		if len(got) != want || table.Len() != tt.left {
			t.Errorf("%s: %d changes, %d grants left, want %d and %d", tt.name, len(got), table.Len(), want, tt.left)
			continue
		}
		rebuild := n-tt.left > maxChanges || tt.kind == Rearmed
		if last := got[len(got)-1]; tt.kind != Expired && (last.Rebuild != rebuild || last.Kind != tt.kind || strings.Contains(last.Reason, "more)") != rebuild) {
			t.Errorf("%s: the last change is %v, rebuild %v, %q", tt.name, last.Kind, last.Rebuild, last.Reason)
		} else if closed := len(last.Closed); tt.kind == Revoked && want+closed != n-tt.left || tt.kind != Revoked && closed > 0 {
			t.Errorf("%s: %d changes and %d more prefixes, want %d in all", tt.name, want, closed, n-tt.left)
		}
		if tt.kind == Expired {
			if next, ok := table.Next(); !ok || next.After(now.Add(time.Hour)) {
				t.Errorf("Next = %v %v while more is due", next, ok)
			}
			through(t, table, 2*time.Hour)
			empty(t, table)
		}
		for range table.Project(now) {
			tt.left--
		}
		if tt.kind != Expired && tt.left != 0 {
			t.Errorf("%s: Project yields %d too few", tt.name, tt.left)
		}
	}
}

// A pause does not make the brakes forget.
func TestBrakesOutliveAPause(t *testing.T) {
	table := newTable(t, Config{MaxUsers: 1})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{}))
	must(t, table, start, "203.0.113.7", "alice", Granted)
	table.Pause(at(m), root, "")
	table.Resume(at(2*m), root, "")
	must(t, table, at(3*m), "203.0.113.7", "bob", Refused)
	through(t, table, 40*m)
	empty(t, table)
}

// What cannot be kept about a grant is told when it is granted.
func TestDetailsAreBounded(t *testing.T) {
	table := newTable(t, Config{MaxDetails: 1, MaxUsers: 2})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	c := must(t, table, start, "203.0.113.8", "bob", Granted)
	if g := c.Grant; len(g.Users) != 1 || g.Users[0].Name != "bob" || g.Answer != "+OK Logged in." || g.Conn.Client.Port() != 51234 {
		t.Errorf("the change shows %+v", g)
	}
	if g, _ := table.Get(addr("203.0.113.8")); len(g.Users) != 0 || g.Conn != (authz.Conn{}) || g.Source != Login || table.Dropped().Details != 1 {
		t.Errorf("the grant shows %+v, %d dropped", g, table.Dropped().Details)
	}
	if c, _ := table.Manual(start, pfx("203.0.113.9/32"), time.Hour, root, "moved"); c.Grant.By != root {
		t.Errorf("Manual = %+v", c)
	}
	if g, _ := table.Get(addr("203.0.113.9")); g.By != root || g.Note != "moved" {
		t.Errorf("who granted by hand is not known: %+v", g)
	}
	// The brakes do not need details.
	must(t, table, start, "203.0.113.8", "carol", Renewed)
	must(t, table, start, "203.0.113.8", "dave", Refused)
}

// Piece by piece, the table reads as it does at once.
func TestPart(t *testing.T) {
	table := New(Config{})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("198.51.100.0/24")}))
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		if _, ok := table.Manual(start, netip.PrefixFrom(a, 32), time.Duration(1+i%3)*time.Hour, "root", ""); !ok {
			t.Fatalf("%s is not granted", a)
		}
	}
	table.Revoke(start, netip.MustParsePrefix("203.0.1.0/24"), "root", "a hole")
	table.Expire(start.Add(time.Hour))
	for _, rows := range []int{1, 7, 4096, 1 << 20} {
		seen := make(map[netip.Prefix]int)
		for from, more := uint32(0), true; more; more = from != 0 {
			from = table.Part(from, rows, func(g *Grant) { seen[g.Prefix]++ })
		}
		list := table.List()
		if len(seen) != len(list) {
			t.Errorf("in parts of %d: %d grants, want %d", rows, len(seen), len(list))
		}
		for _, g := range list {
			if seen[g.Prefix] != 1 {
				t.Errorf("in parts of %d: %s comes %d times", rows, g.Prefix, seen[g.Prefix])
			}
		}
	}
}

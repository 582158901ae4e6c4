package grant

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"relaygate/authz"
)

const root = "root (uid 0)"

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestDenyClosesAndRefuses(t *testing.T) {
	table := newTable(t, Config{IPv6Prefix: 64})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, start, "203.0.113.8", "bob", Granted)
	must(t, table, start, "2001:db8::7", "carol", Granted)
	table.Manual(start, pfx("203.0.113.0/28"), time.Hour, root, "")
	got := table.Deny(at(m), pfx("::ffff:203.0.113.7/128"), 10*m, root, "spam")
	if kinds(got) != "[denied 203.0.113.7/32 revoked 203.0.113.0/28 revoked 203.0.113.7/32]" {
		t.Errorf("Deny: %s", kinds(got))
	}
	if want := "contains 203.0.113.7: is denied by root (uid 0): spam, until 2026-01-02T03:15:05Z"; got[1].Reason != want {
		t.Errorf("the wider grant: %q, want %q", got[1].Reason, want)
	}
	if e := got[0].Event(); e.Kind != authz.EventDenied || e.By != root || !e.Until.Equal(at(11*m)) || !strings.Contains(e.Reason, "spam") {
		t.Errorf("Event = %+v", e)
	}
	if kinds(table.Deny(at(m), pfx("2001:db8::7/128"), 0, root, "")) != "[denied 2001:db8::7/128 revoked 2001:db8::/64]" {
		t.Error("the /64 around a denied address stays open")
	}
	c := must(t, table, at(2*m), "203.0.113.7", "alice", Refused)
	if c.Reason != "is denied by root (uid 0): spam, until 2026-01-02T03:15:05Z" {
		t.Errorf("refused with %q", c.Reason)
	}
	must(t, table, at(2*m), "2001:db8::8", "carol", Refused) // its /64 holds a denied address
	if c, _ := table.Manual(at(2*m), pfx("203.0.113.0/28"), time.Hour, root, ""); c.Kind != Refused {
		t.Errorf("Manual around a denied address = %+v", c)
	}
	if c, _ := table.Import(at(2*m), addr("203.0.113.7"), time.Hour); c.Kind != Refused {
		t.Errorf("Import of a denied address = %+v", c)
	}
	// It outlives a new policy, and ends by itself.
	table.SetPolicy(at(3*m), policy(t, authz.Host{}, authz.Rules{}))
	must(t, table, at(3*m), "203.0.113.7", "alice", Refused)
	if next, ok := table.Next(); !ok || next.After(at(11*m)) {
		t.Errorf("Next = %v", next)
	}
	got = table.Expire(at(11 * m))
	if kinds(got) != "[undenied 203.0.113.7/32]" || got[0].Reason != "its denial ran out: it was denied by root (uid 0): spam" {
		t.Errorf("Expire: %+v", got)
	}
	must(t, table, at(11*m), "203.0.113.7", "alice", Granted)
	must(t, table, at(1000*time.Hour), "2001:db8::7", "carol", Refused) // for good
	if got := table.Undeny(at(1000*time.Hour), pfx("2001:db8::7/128"), root, "sorry"); len(got) != 1 || got[0].Reason != "its denial was taken back by root (uid 0): sorry" {
		t.Errorf("Undeny = %+v", got)
	}
	must(t, table, at(1000*time.Hour), "2001:db8::7", "carol", Granted)
}

func TestDenyRefused(t *testing.T) {
	table := newTable(t, Config{MaxDenials: 1})
	table.Deny(start, pfx("192.0.2.0/24"), time.Hour, root, "")
	for _, tt := range []struct {
		name, reason string
		do           func() []Change
	}{
		{"no prefix", "is not a prefix", func() []Change { return table.Deny(start, netip.Prefix{}, 0, root, "") }},
		{"mapped and wider than that", "is not a prefix", func() []Change { return table.Deny(start, pfx("::ffff:0:0/90"), 0, root, "") }},
		{"negative", "less than no time", func() []Change { return table.Deny(start, pfx("203.0.113.0/24"), -1, root, "") }},
		{"too many", "1 denials, which is the limit", func() []Change { return table.Deny(start, pfx("203.0.113.0/24"), 0, root, "") }},
		{"undeny of nothing", "is not a prefix", func() []Change { return table.Undeny(start, netip.Prefix{}, root, "") }},
		{"undeny of what is not denied", "has no denial of its own", func() []Change { return table.Undeny(start, pfx("203.0.113.0/24"), root, "") }},
		{"undeny of a part", "it is denied (192.0.2.0/24) by root (uid 0), until", func() []Change { return table.Undeny(start, pfx("192.0.2.1/32"), root, "") }},
	} {
		if got := tt.do(); len(got) != 1 || got[0].Kind != Refused || !strings.Contains(got[0].Reason, tt.reason) {
			t.Errorf("%s: %+v, want refused because %q", tt.name, got, tt.reason)
		}
	}
	// The same prefix again is no further denial.
	if got := table.Deny(at(m), pfx("192.0.2.0/24"), 0, root, "for good"); got[0].Kind != Denied {
		t.Errorf("Deny again = %+v", got)
	}
	if d := table.Denials(); len(d) != 1 || !d[0].Until.IsZero() || d[0].Note != "for good" || !d[0].Since.Equal(at(m)) {
		t.Errorf("Denials = %+v", d)
	}
}

// statics counts the changes for which the gate takes all always rules anew, which costs
// the more the more there are.
func statics(changes []Change) (n int) {
	for i := range changes {
		if changes[i].Static {
			n++
		}
	}
	return n
}

func TestAlwaysRulesAreToldOnce(t *testing.T) {
	table := New(Config{})
	for _, step := range []struct {
		always        []netip.Prefix
		changes, told int
	}{
		{prefixes("192.0.2.0/30", "198.51.100.1/32", "2001:db8::/64"), 3, 1},
		{prefixes("192.0.2.0/30", "198.51.100.1/32", "2001:db8::/64"), 0, 0},
		{prefixes("192.0.2.0/30", "203.0.113.0/24"), 3, 1},
		{nil, 2, 1},
	} {
		got := table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: step.always}))
		if len(got) != step.changes || statics(got) != step.told {
			t.Errorf("%v: %s, of which %d tell the gate, want %d of %d", step.always, kinds(got), statics(got), step.told, step.changes)
		}
	}
	if got := table.Deny(start, pfx("192.0.2.7/32"), m, root, ""); statics(got) != 0 {
		t.Errorf("a denial of what is not always open: %s", kinds(got))
	}
}

func TestDenialPunchesAlwaysRules(t *testing.T) {
	table := New(Config{})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("192.0.2.0/30", "2001:db8::/64")}))
	got := table.Deny(start, pfx("192.0.2.1/32"), m, root, "")
	if kinds(got) != "[denied 192.0.2.1/32 granted 192.0.2.0/32 granted 192.0.2.2/31 revoked 192.0.2.0/30]" || statics(got) != 1 {
		t.Errorf("Deny: %s", kinds(got))
	}
	if want := fmt.Sprint(prefixes("192.0.2.0/32", "192.0.2.2/31", "2001:db8::/64")); fmt.Sprint(table.Static()) != want {
		t.Errorf("Static = %v, want %s", table.Static(), want)
	}
	if _, ok := table.Get(addr("192.0.2.1")); ok {
		t.Error("a denied address is found in an always rule")
	}
	must(t, table, start, "192.0.2.1", "alice", Refused)
	if got := table.Expire(at(m)); statics(got) != 1 || fmt.Sprint(table.Static()) != "[192.0.2.0/30 2001:db8::/64]" {
		t.Errorf("Expire: %s, Static = %v", kinds(got), table.Static())
	}
}

func TestPause(t *testing.T) {
	table := New(Config{Follow: true})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("192.0.2.0/24")}))
	must(t, table, start, "203.0.113.7", "alice", Granted)
	table.Hold(start, held(1, "203.0.113.7", "alice", 0))
	table.Manual(start, pfx("203.0.113.8/32"), time.Hour, root, "")
	got := table.Pause(at(m), root, "attack")
	if kinds(got) != "[paused invalid Prefix revoked 203.0.113.7/32 revoked 203.0.113.8/32]" {
		t.Errorf("Pause: %s", kinds(got))
	}
	const words = "nothing is granted: paused by root (uid 0): attack, since 2026-01-02T03:05:05Z"
	if got[1].Reason != words || got[1].By != root {
		t.Errorf("revoked with %q", got[1].Reason)
	}
	if c := must(t, table, at(2*m), "203.0.113.7", "alice", Refused); c.Reason != words {
		t.Errorf("refused with %q", c.Reason)
	}
	if c, _ := table.Manual(at(2*m), pfx("203.0.113.8/32"), time.Hour, root, ""); c.Kind != Refused {
		t.Errorf("Manual = %+v", c)
	}
	if c, _ := table.Import(at(2*m), addr("203.0.113.8"), time.Hour); c.Kind != Refused {
		t.Errorf("Import = %+v", c)
	}
	if p, ok := table.Paused(); !ok || p.Note != "attack" || len(table.Pause(at(3*m), "", "")) != 0 {
		t.Errorf("Paused = %+v %v", p, ok)
	}
	if table.Len() != 1 || len(table.Static()) != 1 {
		t.Errorf("%d grants are open", table.Len())
	}
	if got := table.Resume(at(4*m), root, ""); len(got) != 1 || got[0].Kind != Resumed || len(table.Resume(at(4*m), root, "")) != 0 {
		t.Errorf("Resume = %+v", got)
	}
	must(t, table, at(5*m), "203.0.113.7", "alice", Granted)
}

// An address whose users count still gets a timer of its own for what the
// administrator gives for a shorter time.
func TestManualOnAClosedAddress(t *testing.T) {
	table := newTable(t, Config{MaxUsers: 1})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, at(29*m), "203.0.113.7", "bob", Refused)
	through(t, table, 30*m)
	if c, _ := table.Manual(at(31*m), pfx("203.0.113.7/32"), m, root, ""); c.Kind != Granted {
		t.Fatalf("Manual = %+v", c)
	}
	if next, ok := table.Next(); !ok || next.After(at(32*m)) {
		t.Errorf("Next is at %v", next.Sub(start))
	}
	if got := through(t, table, 32*m); kinds(got) != "[expired 203.0.113.7/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
	must(t, table, at(33*m), "203.0.113.7", "alice", Refused) // still shared
}

func TestManualBounds(t *testing.T) {
	table := newTable(t, Config{})
	for prefix, members := range map[string]int{
		"203.0.113.7/32": 1, "203.0.113.0/24": 256, "203.0.112.0/22": 1024, "2001:db8::/64": 1, "2001:db8::/118": 1024,
		"203.0.112.0/21": 0, "2001:db8::/117": 0, "2001:db8::/63": 0, "0.0.0.0/0": 0, "::/0": 0,
	} {
		c, ok := table.Manual(start, pfx(prefix), time.Hour, root, "")
		if !ok || (c.Kind == Granted) != (members > 0) {
			t.Errorf("Manual(%s) = %v %q", prefix, c.Kind, c.Reason)
			continue
		}
		n := 0
		for p := range Members(pfx(prefix)) {
			n++
			if c.Kind == Granted && !pfx(prefix).Overlaps(p) {
				t.Errorf("%s has the member %v", prefix, p)
			}
		}
		if members > 0 && n != members {
			t.Errorf("%s has %d members, want %d", prefix, n, members)
		}
	}
}

func TestSetConfig(t *testing.T) {
	table := newTable(t, Config{Follow: true})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, start, "203.0.113.8", "bob", Granted)
	table.Hold(start, held(1, "203.0.113.8", "bob", 0))
	table.Manual(start, pfx("203.0.113.9/32"), time.Hour, root, "")
	got := table.SetConfig(at(m), Config{Lifetime: 5 * m})
	if kinds(got) != "[rearmed 203.0.113.7/32 rearmed 203.0.113.8/32]" || !got[0].Arm || !got[0].Grant.Expires.Equal(at(6*m)) {
		t.Errorf("SetConfig: %+v", got)
	}
	if got := through(t, table, 6*m); kinds(got) != "[expired 203.0.113.7/32 expired 203.0.113.8/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
	if got := through(t, table, 60*m); kinds(got) != "[expired 203.0.113.9/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
	table.SetConfig(at(60*m), Config{Lifetime: 50 * m})
	if c := must(t, table, at(60*m), "203.0.113.7", "alice", Granted); !c.Grant.Expires.Equal(at(110 * m)) {
		t.Errorf("after a reload: until %v", c.Grant.Expires.Sub(start))
	}
}

// A step of the wall clock moves what is shown of a denial with it.
func TestDenialIsShownByTheClockThatWasSet(t *testing.T) {
	for _, step := range []time.Duration{0, 5 * time.Hour, -5 * time.Hour} {
		table := newTable(t, Config{})
		now := time.Now()
		table.Deny(now, netip.MustParsePrefix("203.0.113.7/32"), time.Hour, "root", "")
		later := set(now.Add(time.Minute), step)
		table.Expire(later)
		d := table.Denials()
		if len(d) != 1 || !d[0].Until.Round(0).Equal(later.Add(59*time.Minute).Round(0)) || !d[0].Since.Round(0).Equal(later.Add(-time.Minute).Round(0)) {
			t.Errorf("%v later by the clock: Denials = %+v", step, d)
		}
	}
}

// set is a time of this process as it is read once the wall clock was set by whole
// seconds: package time keeps these above the 30 bits of the nanoseconds.
func set(t time.Time, step time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(step/time.Second) << 30
	return t
}

package grant

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

func TestLoginRefused(t *testing.T) {
	p := policy(t, authz.Host{Addresses: []authz.LinkPrefix{{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Link: "eth0"}}},
		authz.Rules{Never: []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}})
	for _, tt := range []struct {
		name, reason string
		change       func(*authz.Verdict)
	}{
		{"never", "never granted", func(v *authz.Verdict) { v.Conn.Client = netip.MustParseAddrPort("203.0.113.9:1") }},
		{"never, mapped", "never granted", func(v *authz.Verdict) { v.Conn.Client = netip.MustParseAddrPort("[::ffff:203.0.113.9]:1") }},
		{"own", "own addresses (eth0)", func(v *authz.Verdict) { v.Conn.Client = netip.MustParseAddrPort("[2001:db8::1]:1") }},
		{"loopback", "loopback", func(v *authz.Verdict) { v.Conn.Client = netip.MustParseAddrPort("127.0.0.1:1") }},
		{"own /64 as a whole", "contains 2001:db8::1", func(v *authz.Verdict) { v.Conn.Client = netip.MustParseAddrPort("[2001:db8::77]:1") }},
		{"anonymous", "anonymous", func(v *authz.Verdict) { v.Anonymous = true }},
		{"unauthenticated", "nothing shows", func(v *authz.Verdict) { v.Origin = authz.Unauthenticated }},
		{"no client", "not known", func(v *authz.Verdict) { v.Conn.Client = netip.AddrPort{} }},
	} {
		table := New(Config{IPv6Prefix: 64})
		table.SetPolicy(start, p)
		v := login("203.0.113.7", "alice")
		tt.change(&v)
		c, ok := table.Login(start, v)
		if !ok || c.Kind != Refused || !strings.Contains(c.Reason, tt.reason) {
			t.Errorf("%s: Login = %v %q %v, want refused because %q", tt.name, c.Kind, c.Reason, ok, tt.reason)
		}
		if table.Len() != 0 || table.entries.n != 0 {
			t.Errorf("%s: the table holds %d grants", tt.name, table.Len())
		}
	}
}

// Where the agent hung, a lifetime counts from the login all the same.
func TestLateLogin(t *testing.T) {
	for _, tt := range []struct {
		name       string
		late, left time.Duration // 0 left: it is refused
	}{
		{"at once", 0, time.Minute},
		{"at an unknown time", -1, time.Minute},
		{"before it was", -time.Hour, time.Minute},
		{"late", 20 * time.Second, 40 * time.Second},
		{"too late", time.Minute, 0},
		{"days too late", 400 * 24 * time.Hour, 0},
	} {
		table := newTable(t, Config{Lifetime: time.Minute})
		v := login("203.0.113.7", "alice")
		if tt.late != -1 {
			v.Time = start.Add(-tt.late)
		}
		c, ok := table.Login(start, v)
		if !ok || (c.Kind == Granted) != (tt.left > 0) || tt.left > 0 && c.Grant.Expires.Sub(start) != tt.left {
			t.Errorf("%s: Login = %v %q until %v", tt.name, c.Kind, c.Reason, c.Grant.Expires.Sub(start))
		}
		// A late one shortens nothing.
		must(t, table, start, "203.0.113.7", "alice", map[bool]Kind{true: Renewed, false: Granted}[tt.left > 0])
		if c, _ = table.Login(start, v); c.Grant.Expires.Sub(start) != time.Minute {
			t.Errorf("%s: another login leaves %v", tt.name, c.Grant.Expires.Sub(start))
		}
	}
}

func TestSharedAddress(t *testing.T) {
	table := newTable(t, Config{Lifetime: 30 * time.Minute, MaxUsers: 2})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, at(time.Minute), "203.0.113.7", "bob", Renewed)
	must(t, table, at(2*time.Minute), "203.0.113.7", "Alice", Renewed) // one user, two spellings
	c := must(t, table, at(3*time.Minute), "203.0.113.7", "carol", Refused)
	if !strings.Contains(c.Reason, "shared") || !c.Grant.Expires.Equal(at(32*time.Minute)) {
		t.Errorf("refused with %q, the grant stands until %v", c.Reason, c.Grant.Expires)
	}
	must(t, table, at(10*time.Minute), "203.0.113.7", "alice", Refused)
	must(t, table, at(20*time.Minute), "203.0.113.7", "bob", Refused)
	must(t, table, at(25*time.Minute), "203.0.113.7", "carol", Refused)
	got := table.Expire(at(32 * time.Minute))
	if len(got) != 1 || !strings.Contains(got[0].Reason, "shared") || table.Len() != 0 {
		t.Errorf("Expire = %+v", got)
	}
	// It stays shared after its grant ran out, as long as all three come …
	must(t, table, at(33*time.Minute), "203.0.113.7", "alice", Refused)
	// … and is an ordinary address again when they do not.
	must(t, table, at(50*time.Minute+1), "203.0.113.7", "alice", Granted)
	table.Expire(at(3 * time.Hour))
	empty(t, table)
}

func TestUserWithManyAddresses(t *testing.T) {
	table := newTable(t, Config{Lifetime: 30 * time.Minute, MaxAddresses: 2})
	must(t, table, start, "203.0.113.1", "alice", Granted)
	must(t, table, at(time.Minute), "203.0.113.2", "ALICE", Granted)
	c := must(t, table, at(2*time.Minute), "203.0.113.3", "alice", Refused)
	if !strings.Contains(c.Reason, "alice already holds 2 addresses") {
		t.Errorf("refused with %q", c.Reason)
	}
	must(t, table, at(3*time.Minute), "203.0.113.1", "alice", Renewed)
	must(t, table, at(4*time.Minute), "203.0.113.3", "bob", Granted)
	c = must(t, table, at(5*time.Minute), "203.0.113.3", "alice", Refused) // does not renew bob's
	if e := c.Event(); e.User != "alice" || e.Kind != authz.EventRefused {
		t.Errorf("the journal names %q for it", e.User)
	}
	if !c.Grant.Expires.Equal(at(34 * time.Minute)) {
		t.Errorf("bob's grant stands until %v", c.Grant.Expires)
	}
	table.Expire(at(31 * time.Minute))
	must(t, table, at(31*time.Minute), "203.0.113.4", "alice", Granted)
	// Why it was not renewed is told.
	must(t, table, at(31*time.Minute), "203.0.113.3", "alice", Refused)
	if got := table.Expire(at(34 * time.Minute)); len(got) != 2 || !strings.Contains(got[1].Reason, "not renewed: the last user to log in already held 2 addresses") {
		t.Errorf("Expire: %+v", got)
	}
	must(t, table, at(34*time.Minute), "203.0.113.3", "bob", Granted)
	must(t, table, at(35*time.Minute), "203.0.113.5", "alice", Granted)
	must(t, table, at(36*time.Minute), "203.0.113.3", "alice", Refused)
	must(t, table, at(37*time.Minute), "203.0.113.3", "bob", Renewed)
	for _, c := range table.Expire(at(67 * time.Minute)) {
		if c.Grant.Prefix == netip.MustParsePrefix("203.0.113.3/32") && c.Reason != "no login for 30 min" {
			t.Errorf("expired because %q", c.Reason)
		}
	}
	must(t, table, at(67*time.Minute), "203.0.113.4", "alice", Granted)
	// Names that no mechanism shows are not one user.
	for i := range 5 {
		must(t, table, at(67*time.Minute), fmt.Sprintf("203.0.113.%d", 100+i), "", Granted)
	}
}

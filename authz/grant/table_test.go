package grant

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func policy(t testing.TB, h authz.Host, r authz.Rules) *authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	table := New(cfg)
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{}))
	return table
}

func login(client, user string) authz.Verdict {
	return authz.Verdict{
		Conn: authz.Conn{
			Client:  netip.AddrPortFrom(netip.MustParseAddr(client), 51234),
			Server:  netip.MustParseAddrPort("198.51.100.2:110"),
			Service: authz.Service{Protocol: authz.POP3},
		},
		Login:  authz.Login{Result: authz.Success, Mechanism: "USER", User: user, Answer: "+OK Logged in."},
		Origin: authz.FromHost,
	}
}

// empty checks that nothing is left of what was granted.
func empty(t *testing.T, table *Table) {
	t.Helper()
	if table.Len() != 0 || table.entries.n != 0 || table.links.n != 0 || len(table.details) != 0 || len(table.sessions) != 0 || table.followed != 0 {
		t.Errorf("%d grants, %d entries, %d links, %d details, %d held by %d sessions are left", table.Len(),
			table.entries.n, table.links.n, len(table.details), len(table.sessions), table.followed)
	}
}

// must logs in and checks the kind of change.
func must(t *testing.T, table *Table, now time.Time, client, user string, want Kind) Change {
	t.Helper()
	c, ok := table.Login(now, login(client, user))
	if !ok || c.Kind != want {
		t.Fatalf("%v: Login(%s, %s) = %v %q %v, want %v", now.Sub(start), client, user, c.Kind, c.Reason, ok, want)
	}
	return c
}

func TestNothingIsGrantedWithoutPolicyOrSuccess(t *testing.T) {
	table := New(Config{})
	must(t, table, start, "203.0.113.7", "alice", Refused)
	if _, ok := table.Import(start, netip.MustParseAddr("203.0.113.7"), time.Minute); !ok || table.Len() != 0 {
		t.Errorf("Import without a policy: %d grants", table.Len())
	}
	table = newTable(t, Config{})
	for _, r := range []authz.Result{0, authz.Failure, authz.Tainted, authz.Encrypted} {
		v := login("203.0.113.7", "alice")
		v.Result = r
		if c, ok := table.Login(start, v); ok || table.Len() != 0 {
			t.Errorf("Login(%v) = %v", r, c)
		}
	}
}

func TestRenewalAndExpiry(t *testing.T) {
	table := newTable(t, Config{Lifetime: 30 * time.Minute})
	c := must(t, table, start, "203.0.113.7", "alice", Granted)
	if got := c.Grant.Expires; !got.Equal(at(30 * time.Minute)) {
		t.Errorf("expires %v", got)
	}
	c = must(t, table, at(10*time.Minute), "::ffff:203.0.113.7", "bob", Renewed)
	if g := c.Grant; !g.Since.Equal(start) || !g.Expires.Equal(at(40*time.Minute)) || g.Logins != 2 ||
		len(g.Users) != 2 || g.Users[0].Name != "bob" || g.Users[1].Name != "alice" {
		t.Errorf("renewed: %+v", g)
	}
	// A verdict that comes late must not shorten.
	c = must(t, table, at(5*time.Minute), "203.0.113.7", "alice", Renewed)
	if got := c.Grant.Expires; !got.Equal(at(40 * time.Minute)) {
		t.Errorf("a late verdict moved the deadline to %v", got)
	}
	if next, ok := table.Next(); !ok || next.After(at(40*time.Minute)) {
		t.Errorf("Next = %v %v", next, ok)
	}
	if got := table.Expire(at(40*time.Minute - 1)); len(got) != 0 {
		t.Errorf("expired early: %v", got)
	}
	got := table.Expire(at(40 * time.Minute))
	if len(got) != 1 || got[0].Kind != Expired || got[0].Reason != "no login for 30 min" {
		t.Errorf("Expire = %+v", got)
	}
	if _, ok := table.Next(); ok {
		t.Error("something is due still")
	}
	empty(t, table)
	c = must(t, table, at(time.Hour), "203.0.113.7", "alice", Granted)
	if g := c.Grant; g.Logins != 1 || len(g.Users) != 1 || !g.Since.Equal(at(time.Hour)) {
		t.Errorf("granted anew: %+v", g)
	}
}

func TestGrantIsNotFoundAfterItsDeadline(t *testing.T) {
	table := newTable(t, Config{Lifetime: time.Minute})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, at(time.Minute), "203.0.113.8", "bob", Granted) // Expire was not called
	if g, ok := table.Get(netip.MustParseAddr("203.0.113.7")); ok {
		t.Errorf("Get finds %+v", g)
	}
	if list := table.List(); len(list) != 1 {
		t.Errorf("List = %v", list)
	}
	must(t, table, at(time.Minute), "203.0.113.7", "alice", Granted)
}

func TestExpiryOrder(t *testing.T) {
	table := newTable(t, Config{Lifetime: time.Minute})
	for i, c := range []string{"203.0.113.3", "203.0.113.1", "2001:db8::1", "203.0.113.2"} {
		must(t, table, at(time.Duration(i)*time.Second), c, "alice", Granted)
	}
	must(t, table, at(10*time.Second), "203.0.113.3", "alice", Renewed)
	var order []string
	for _, c := range table.Expire(at(time.Hour)) {
		order = append(order, authz.PrefixString(c.Grant.Prefix))
	}
	if got, want := fmt.Sprint(order), "[203.0.113.1 2001:db8::1 203.0.113.2 203.0.113.3]"; got != want {
		t.Errorf("expired in the order %s, want %s", got, want)
	}
}

func TestFullTable(t *testing.T) {
	table := newTable(t, Config{MaxGrants: 1})
	must(t, table, start, "203.0.113.1", "alice", Granted)
	c := must(t, table, start, "203.0.113.2", "bob", Refused)
	if !strings.Contains(c.Reason, "full") {
		t.Errorf("refused with %q", c.Reason)
	}
	if c, ok := table.Manual(start, netip.MustParsePrefix("203.0.113.2/32"), time.Hour, "", ""); !ok || c.Kind != Refused {
		t.Errorf("Manual = %v %v", c.Kind, ok)
	}
	must(t, table, start, "203.0.113.1", "alice", Renewed)
}

func TestKey(t *testing.T) {
	table := New(Config{IPv6Prefix: 64})
	for addr, want := range map[string]string{
		"203.0.113.7":          "203.0.113.7/32",
		"::ffff:203.0.113.7":   "203.0.113.7/32",
		"2001:db8:1:2:3::4":    "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
		"64:ff9b::203.0.113.7": "64:ff9b::cb00:7107/128",
		"64:ff9b:1::1":         "64:ff9b:1::1/128",
		"64:ff9b::1:0:0:1":     "64:ff9b::1:0:0:1/128", // its /64 holds that of NAT64
		"2001:0:1::1":          "2001:0:1::1/128",
		"2001:1::1":            "2001:1::/64",
	} {
		if got := table.Key(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("Key(%s) = %v, want %s", addr, got, want)
		}
	}
	if got := New(Config{}).Key(netip.MustParseAddr("2001:db8::1")); got.String() != "2001:db8::1/128" {
		t.Errorf("not widened: Key = %v", got)
	}
}

func TestRenewalAllocations(t *testing.T) {
	table := newTable(t, Config{})
	v := login("203.0.113.7", "alice")
	table.Login(start, v)
	i := 0
	// The cause, the users and the reason are copied for whom it concerns.
	if n := testing.AllocsPerRun(1000, func() {
		i++
		table.Login(at(time.Duration(i)*time.Second), v)
	}); n > 4 {
		t.Errorf("a renewal allocates %v times, want at most 4", n)
	}
}

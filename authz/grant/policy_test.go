package grant

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"relaygate/authz"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func byPrefix(a, b Change) int { return a.Grant.Prefix.Compare(b.Grant.Prefix) }

func kinds(changes []Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, fmt.Sprint(c.Kind, " ", c.Grant.Prefix))
	}
	return fmt.Sprint(out)
}

func TestSetPolicyRevokes(t *testing.T) {
	table := newTable(t, Config{})
	for i, c := range []string{"203.0.113.9", "203.0.113.1", "2001:db8::1"} {
		must(t, table, start, c, fmt.Sprint("user", i), Granted)
	}
	got := table.SetPolicy(at(time.Minute), policy(t, authz.Host{NextHops: []authz.LinkAddr{{Addr: addr("2001:db8::1"), Link: "eth0"}}},
		authz.Rules{Never: prefixes("203.0.113.8/29")}))
	if want := "[revoked 203.0.113.9/32 revoked 2001:db8::1/128]"; kinds(got) != want {
		t.Errorf("SetPolicy: %s, want %s", kinds(got), want)
	}
	if got[0].Reason != "is never granted, says the configuration (203.0.113.8/29)" || got[1].Reason != "is the next hop of a default route (eth0)" {
		t.Errorf("reasons: %q, %q", got[0].Reason, got[1].Reason)
	}
	must(t, table, at(time.Minute), "203.0.113.9", "user0", Refused)
	if got := table.SetPolicy(at(time.Minute), nil); kinds(got) != "[revoked 203.0.113.1/32]" || table.Len() != 0 {
		t.Errorf("SetPolicy(nil): %s", kinds(got))
	}
}

func TestAlways(t *testing.T) {
	table := New(Config{})
	rules := authz.Rules{Always: prefixes("192.0.2.0/24", "2001:db8::/64"), Never: prefixes("192.0.2.128/25")}
	if got := kinds(table.SetPolicy(start, policy(t, authz.Host{}, rules))); got != "[granted 192.0.2.0/25 granted 2001:db8::/64]" {
		t.Errorf("SetPolicy: %s", got)
	}
	if got := table.SetPolicy(at(time.Minute), policy(t, authz.Host{}, rules)); len(got) != 0 {
		t.Errorf("the same again: %s", kinds(got))
	}
	g, ok := table.Get(addr("192.0.2.7"))
	if !ok || g.Source != Always || !g.Expires.IsZero() || !g.Since.Equal(start) {
		t.Errorf("Get = %+v %v", g, ok)
	}
	if _, ok := table.Get(addr("192.0.2.200")); ok {
		t.Error("what is never granted is found in an always rule")
	}
	if c, ok := table.Login(start, login("192.0.2.7", "alice")); ok {
		t.Errorf("a login from an always address changes something: %+v", c)
	}
	must(t, table, start, "192.0.2.200", "alice", Refused)
	if got := table.Revoke(start, netip.MustParsePrefix("0.0.0.0/0"), "", "test"); len(got) != 0 {
		t.Errorf("Revoke closed an always rule: %s", kinds(got))
	}
	if _, ok := table.Next(); ok {
		t.Error("an always rule has a deadline")
	}
	rules.Always = prefixes("2001:db8::/64")
	if got := kinds(table.SetPolicy(start, policy(t, authz.Host{}, rules))); got != "[revoked 192.0.2.0/25]" {
		t.Errorf("SetPolicy: %s", got)
	}
	if table.Len() != 1 || len(table.List()) != 1 {
		t.Errorf("Len = %d, List = %v", table.Len(), table.List())
	}
}

func TestImport(t *testing.T) {
	table := New(Config{Lifetime: 30 * time.Minute})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Never: prefixes("203.0.113.9/32"), Always: prefixes("203.0.113.8/32")}))
	for _, tt := range []struct {
		addr      string
		remaining time.Duration
		want      Kind // 0: nothing
		left      time.Duration
	}{
		{"203.0.113.1", 10 * time.Minute, Granted, 10 * time.Minute},
		{"203.0.113.1", 5 * time.Minute, Renewed, 10 * time.Minute}, // never shortens
		{"203.0.113.2", 1000 * time.Hour, Granted, 30 * time.Minute},
		{"203.0.113.3", 0, 0, 0},
		{"203.0.113.3", -time.Minute, 0, 0},
		{"203.0.113.8", time.Minute, 0, 0},
		{"203.0.113.9", time.Minute, Refused, 0},
		{"127.0.0.1", time.Minute, Refused, 0},
	} {
		c, ok := table.Import(start, addr(tt.addr), tt.remaining)
		if ok != (tt.want != 0) || c.Kind != tt.want {
			t.Errorf("Import(%s, %v) = %v %v, want %v", tt.addr, tt.remaining, c.Kind, ok, tt.want)
		}
		if tt.left > 0 && (c.Grant.Source != Import || !c.Grant.Expires.Equal(at(tt.left)) || len(c.Grant.Users) != 0) {
			t.Errorf("Import(%s, %v): %+v", tt.addr, tt.remaining, c.Grant)
		}
	}
	if _, ok := table.Import(start, netip.Addr{}, time.Minute); ok {
		t.Error("an invalid address was imported")
	}
	c := must(t, table, at(time.Minute), "203.0.113.1", "alice", Renewed)
	if c.Grant.Source != Login || !c.Grant.Expires.Equal(at(31*time.Minute)) || !c.Grant.Since.Equal(start) {
		t.Errorf("an import renewed by a login: %+v", c.Grant)
	}
}

// An address that was opened alone does not open its network after grant.ipv6_prefix
// was changed.
func TestImportOpensNoMore(t *testing.T) {
	table := newTable(t, Config{IPv6Prefix: 64})
	for a, want := range map[string]string{
		"2001:db8::7": "", "2001:db8::": "2001:db8::/64", "64:ff9b::203.0.113.7": "64:ff9b::cb00:7107/128", "203.0.113.7": "203.0.113.7/32",
	} {
		c, ok := table.Import(start, addr(a), time.Minute)
		if ok != (want != "") || ok && c.Grant.Prefix.String() != want {
			t.Errorf("Import(%s) = %v %v, want %q", a, c.Grant.Prefix, ok, want)
		}
	}
}

func TestManualAndRevoke(t *testing.T) {
	table := New(Config{Lifetime: 30 * time.Minute})
	table.SetPolicy(start, policy(t, authz.Host{Containers: []authz.LinkPrefix{{Prefix: netip.MustParsePrefix("172.17.0.0/16"), Link: "docker0"}}}, authz.Rules{}))
	for _, bad := range []string{"172.17.0.4/32", "172.16.0.0/12", "0.0.0.0/0"} {
		if c, ok := table.Manual(start, netip.MustParsePrefix(bad), time.Hour, "root (uid 0)", ""); !ok || c.Kind != Refused {
			t.Errorf("Manual(%s) = %v %v", bad, c.Kind, ok)
		}
	}
	if c, ok := table.Manual(start, netip.Prefix{}, time.Hour, "root (uid 0)", ""); !ok || c.Kind != Refused {
		t.Errorf("Manual(nothing) = %v %v", c.Kind, ok)
	}
	if c, ok := table.Manual(start, netip.MustParsePrefix("203.0.113.0/24"), 0, "root (uid 0)", ""); ok {
		t.Errorf("Manual for no time = %+v", c)
	}
	c, ok := table.Manual(start, netip.MustParsePrefix("203.0.113.77/24"), 2*time.Hour, "root (uid 0)", "moved")
	if !ok || c.Kind != Granted || c.Grant.Prefix.String() != "203.0.113.0/24" {
		t.Errorf("Manual = %+v %v", c, ok)
	}
	must(t, table, start, "203.0.113.7", "alice", Granted)
	if g, _ := table.Get(addr("203.0.113.7")); g.Source != Login {
		t.Errorf("the narrower grant is not found first: %+v", g)
	}
	if g, _ := table.Get(addr("::ffff:203.0.113.8")); g.Source != Manual {
		t.Errorf("the wider grant is not found: %+v", g)
	}
	// A shorter login does not shorten what the administrator gave.
	if _, ok := table.Manual(start, netip.MustParsePrefix("203.0.113.7/32"), 2*time.Hour, "root (uid 0)", ""); !ok {
		t.Fatal("Manual changed nothing")
	}
	c = must(t, table, start, "203.0.113.7", "alice", Renewed)
	if c.Grant.Source != Manual || !c.Grant.Expires.Equal(at(2*time.Hour)) || len(c.Grant.Users) != 1 {
		t.Errorf("a login on a longer manual grant: %+v", c.Grant)
	}
	must(t, table, start, "203.0.113.9", "bob", Granted)
	got := table.Revoke(at(time.Minute), netip.MustParsePrefix("203.0.113.7/32"), "root (uid 0)", "by hand")
	if kinds(got) != "[revoked 203.0.113.0/24 revoked 203.0.113.7/32]" || got[1].Reason != "by hand" || got[1].By != "root (uid 0)" ||
		got[0].Reason != "contains 203.0.113.7: by hand" || got[0].Grant.Note != "moved" || got[0].Grant.By != "root (uid 0)" {
		t.Errorf("Revoke: %+v", got)
	}
	if got := kinds(table.Revoke(at(time.Minute), netip.MustParsePrefix("203.0.112.0/22"), "", "x")); got != "[revoked 203.0.113.9/32]" {
		t.Errorf("Revoke of a wider prefix: %s", got)
	}
	if table.Revoke(start, netip.Prefix{}, "", "") != nil {
		t.Error("Revoke of nothing")
	}
	empty(t, table)
}

func TestListIsSortedAndImmutable(t *testing.T) {
	table := newTable(t, Config{})
	for i, c := range []string{"2001:db8::1", "203.0.113.9", "203.0.113.10"} {
		must(t, table, start, c, fmt.Sprint("user", i), Granted)
	}
	list := table.List()
	if !slices.IsSortedFunc(list, func(a, b Grant) int { return a.Prefix.Compare(b.Prefix) }) || len(list) != 3 || !list[0].Prefix.Addr().Is4() {
		t.Errorf("List = %v", list)
	}
	must(t, table, at(time.Minute), "203.0.113.9", "mallory", Renewed)
	if got := list[0].Users; len(got) != 1 || got[0].Name != "user1" || list[0].Logins != 1 {
		t.Errorf("a list changed after it was handed out: %+v", list[0])
	}
}

func TestChangeEvent(t *testing.T) {
	table := newTable(t, Config{})
	e := must(t, table, start, "203.0.113.7", "alice", Granted).Event()
	if e.Kind != authz.EventGranted || e.User != "alice" || e.Mechanism != "USER" || e.Answer != "+OK Logged in." ||
		!e.Until.Equal(at(30*time.Minute)) || e.Open || e.Conn.Client.Port() != 51234 || e.Prefix.String() != "203.0.113.7/32" {
		t.Errorf("Event = %+v", e)
	}
	c := table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("192.0.2.0/24")}))[0]
	if e := c.Event(); !e.Open || !e.Until.IsZero() {
		t.Errorf("Event of an always rule = %+v", e)
	}
	for k := Granted; k <= Refused; k++ {
		if got := (Change{Kind: k}).Event().Kind.String(); got != k.String() {
			t.Errorf("the event of %v is %s", k, got)
		}
	}
}

func TestCovers(t *testing.T) {
	table := New(Config{Lifetime: time.Hour})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("192.0.2.0/24", "2001:db8::/48")}))
	table.Manual(start, pfx("198.51.100.0/24"), 2*time.Hour, root, "")
	table.Manual(start, pfx("198.51.100.7/32"), time.Minute, root, "")
	table.Manual(start, pfx("203.0.113.7/32"), 2*time.Hour, root, "")
	table.Expire(at(2 * time.Minute))
	for prefix, want := range map[string]bool{
		"192.0.2.7/32": true, "192.0.2.0/24": true, "192.0.2.0/23": false,
		"2001:db8:0:1::/64": true, "2001:db8::/47": false,
		"198.51.100.7/32": true, "198.51.100.0/24": true, "198.51.100.0/23": false,
		"203.0.113.7/32": true, "203.0.113.0/24": false, "203.0.113.8/32": false,
	} {
		if got := table.Covers(pfx(prefix)); got != want {
			t.Errorf("Covers(%s) = %v", prefix, got)
		}
	}
}

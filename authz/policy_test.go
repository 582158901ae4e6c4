package authz

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func link(name string, list ...string) []LinkPrefix {
	var out []LinkPrefix
	for _, s := range list {
		out = append(out, LinkPrefix{netip.MustParsePrefix(s), name})
	}
	return out
}

// policyWith is NewPolicy with denials.
func policyWith(t *testing.T, h Host, r Rules, denied ...netip.Prefix) *Policy {
	t.Helper()
	p, err := NewPolicy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	var denials []Denial
	for _, d := range denied {
		denials = append(denials, Denial{Prefix: d})
	}
	if p, err = p.Denying(denials); err != nil {
		t.Fatal(err)
	}
	return p
}

func testPolicy(t *testing.T) *Policy {
	t.Helper()
	return policyWith(t, Host{
		Addresses:  append(link("eth0", "198.51.100.2/24", "2001:db8:1::2/64"), link("eth1", "10.9.0.1/31")...),
		Containers: link("docker0", "172.17.0.0/16", "fd00:17::/64"),
		NextHops: []LinkAddr{
			{netip.MustParseAddr("198.51.100.1"), "eth0"},
			{netip.MustParseAddr("fe80::1%eth0"), "eth0"},
			{netip.MustParseAddr("2001:db8:1::1"), ""},
		},
	}, Rules{
		Never:   prefixes("203.0.113.128/25", "::ffff:192.0.2.0/124", "2001:db8:bad::/48"),
		Always:  prefixes("172.17.0.5/32", "192.0.2.0/28", "203.0.113.66/32", "192.168.7.0/24", "127.0.0.2/32"),
		Proxies: prefixes("203.0.113.8/32", "2001:db8:77::/64"),
	}, prefixes("203.0.113.66/32", "192.0.2.9/32")...)
}

func TestPolicyCheck(t *testing.T) {
	p := testPolicy(t)
	for _, tt := range []struct {
		addr, rule, reason string
		allow              bool
	}{
		{"203.0.113.7", RuleDefault, "", true},
		{"2001:db8:5::7", RuleDefault, "", true},
		{"::ffff:203.0.113.7", RuleDefault, "", true},
		{"10.9.0.0", RuleDefault, "", true}, // a /31 has no broadcast address

		{"198.51.100.2", RuleOwn, "is one of this host's own addresses (eth0)", false},
		{"::ffff:198.51.100.2", RuleOwn, "is one of this host's own addresses (eth0)", false},
		{"2001:db8:1::2", RuleOwn, "is one of this host's own addresses (eth0)", false},
		{"10.9.0.1", RuleOwn, "is one of this host's own addresses (eth1)", false},
		{"198.51.100.1", RuleNextHop, "is the next hop of a default route (eth0)", false},
		{"2001:db8:1::1", RuleNextHop, "is the next hop of a default route", false},
		{"fe80::1", RuleNextHop, "is the next hop of a default route (eth0)", false},
		{"fe80::2%eth0", RuleLinkLocal, "is link-local", false},
		{"169.254.1.1", RuleLinkLocal, "is link-local", false},
		{"172.17.0.4", RuleContainer, "is in the container subnet 172.17.0.0/16 of docker0", false},
		{"::ffff:172.17.255.254", RuleContainer, "is in the container subnet 172.17.0.0/16 of docker0", false},
		{"fd00:17::9", RuleContainer, "is in the container subnet fd00:17::/64 of docker0", false},
		{"203.0.113.8", RuleProxy, "is a trusted proxy (203.0.113.8)", false},
		{"2001:db8:77::1", RuleProxy, "is a trusted proxy (2001:db8:77::/64)", false},
		{"127.0.0.1", RuleLoopback, "is loopback", false},
		{"127.255.255.254", RuleLoopback, "is loopback", false},
		{"::1", RuleLoopback, "is loopback", false},
		{"::ffff:127.0.0.1", RuleLoopback, "is loopback", false},
		{"64:ff9b::127.0.0.1", RuleLoopback, "is loopback behind a NAT64 prefix", false},
		{"0.0.0.0", RuleUnspecified, "is unspecified (this network)", false},
		{"0.1.2.3", RuleUnspecified, "is unspecified (this network)", false},
		{"::", RuleUnspecified, "is unspecified", false},
		{"224.0.0.1", RuleMulticast, "is multicast", false},
		{"ff02::1", RuleMulticast, "is multicast", false},
		{"255.255.255.255", RuleBroadcast, "is the limited broadcast address", false},
		{"198.51.100.255", RuleBroadcast, "is the broadcast address of 198.51.100.0/24 of eth0", false},
		{"250.1.1.1", RuleReserved, "is in a reserved range", false},

		{"203.0.113.200", RuleNever, "is never granted, says the configuration (203.0.113.128/25)", false},
		{"2001:db8:bad::1", RuleNever, "is never granted, says the configuration (2001:db8:bad::/48)", false},
		// always overrides what is built in …
		{"172.17.0.5", RuleAlways, "is always allowed, says the configuration", true},
		{"127.0.0.2", RuleAlways, "is always allowed, says the configuration", true},
		{"192.168.7.9", RuleAlways, "is always allowed, says the configuration (192.168.7.0/24)", true},
		// … but neither never nor deny, which come first.
		{"192.0.2.3", RuleNever, "is never granted, says the configuration (192.0.2.0/28)", false},
		{"203.0.113.66", RuleDeny, "is denied", false},
		{"192.0.2.9", RuleDeny, "is denied", false},
	} {
		got := p.Check(netip.MustParseAddr(tt.addr))
		if want := (Decision{tt.allow, tt.rule, tt.reason}); got != want {
			t.Errorf("Check(%s) = %+v, want %+v", tt.addr, got, want)
		}
	}
}

func TestPolicyRefusesWhatItCannotRead(t *testing.T) {
	p := testPolicy(t)
	if d := p.Check(netip.Addr{}); d.Allow || d.Rule != RuleInvalid {
		t.Errorf("Check(no address) = %+v", d)
	}
	if d := p.CheckPrefix(netip.Prefix{}); d.Allow || d.Rule != RuleInvalid {
		t.Errorf("CheckPrefix(no prefix) = %+v", d)
	}
	var none *Policy
	if d := none.Check(netip.MustParseAddr("203.0.113.7")); d.Allow {
		t.Errorf("a nil policy allows: %+v", d)
	}
	if got := none.Always(); got != nil {
		t.Errorf("a nil policy always allows %v", got)
	}
	mapped := netip.PrefixFrom(netip.MustParseAddr("::ffff:0.0.0.0"), 90)
	for name, args := range map[string]struct {
		h Host
		r Rules
	}{
		"never rule":    {r: Rules{Never: []netip.Prefix{mapped}}},
		"always rule":   {r: Rules{Always: []netip.Prefix{mapped}}},
		"trusted proxy": {r: Rules{Proxies: []netip.Prefix{{}}}},
		"own address":   {h: Host{Addresses: []LinkPrefix{{}}}},
		"container":     {h: Host{Containers: []LinkPrefix{{}}}},
		"next hop":      {h: Host{NextHops: []LinkAddr{{}}}},
	} {
		if p, err := NewPolicy(args.h, args.r); err == nil || p != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("NewPolicy(bad %s) = %v, %v", name, p, err)
		}
	}
}

func TestPolicyCheckPrefix(t *testing.T) {
	p := testPolicy(t)
	for _, tt := range []struct {
		prefix, rule, reason string
		allow                bool
	}{
		{"2001:db8:5::/64", RuleDefault, "", true},
		{"203.0.113.0/29", RuleDefault, "", true},
		{"2001:db8:1::/64", RuleNextHop, "contains 2001:db8:1::1, which is the next hop of a default route", false},
		{"198.51.100.0/30", RuleNextHop, "contains 198.51.100.1, which is the next hop of a default route (eth0)", false},
		{"203.0.113.0/24", RuleDeny, "contains 203.0.113.66, which is denied", false},
		{"203.0.113.192/26", RuleNever, "is never granted, says the configuration (203.0.113.128/25)", false},
		{"2001:db8:b00::/40", RuleNever, "contains 2001:db8:bad::/48, which is never granted, says the configuration", false},
		{"172.16.0.0/12", RuleContainer, "contains 172.17.0.0/16, which is in the container subnet 172.17.0.0/16 of docker0", false},
		{"172.17.0.4/30", RuleContainer, "is in the container subnet 172.17.0.0/16 of docker0", false},
		{"192.168.7.64/26", RuleAlways, "is always allowed, says the configuration (192.168.7.0/24)", true},
		{"0.0.0.0/0", RuleDeny, "contains 192.0.2.9, which is denied", false},
		{"::/0", RuleNever, "contains 2001:db8:bad::/48, which is never granted, says the configuration", false},
	} {
		got := p.CheckPrefix(netip.MustParsePrefix(tt.prefix))
		if want := (Decision{tt.allow, tt.rule, tt.reason}); got != want {
			t.Errorf("CheckPrefix(%s) = %+v, want %+v", tt.prefix, got, want)
		}
	}
}

func TestPolicyAlways(t *testing.T) {
	for _, tt := range []struct {
		name                        string
		always, never, denied, want []netip.Prefix
	}{
		{"none", nil, prefixes("0.0.0.0/0"), nil, nil},
		{"sorted, IPv4 first", prefixes("2001:db8::/64", "192.0.2.1/32"), nil, nil, prefixes("192.0.2.1/32", "2001:db8::/64")},
		{"host bits and mapped form", prefixes("192.0.2.7/24", "::ffff:203.0.113.1/128"), nil, nil, prefixes("192.0.2.0/24", "203.0.113.1/32")},
		{"one inside another", prefixes("192.0.2.0/24", "192.0.2.4/32", "192.0.2.4/30"), nil, nil, prefixes("192.0.2.0/24")},
		{"wholly denied", prefixes("192.0.2.0/24"), nil, prefixes("192.0.0.0/16"), nil},
		{"a hole", prefixes("192.0.2.0/30"), prefixes("192.0.2.1/32"), nil, prefixes("192.0.2.0/32", "192.0.2.2/31")},
		{"two holes", prefixes("192.0.2.0/29"), prefixes("192.0.2.1/32"), prefixes("192.0.2.4/30"), prefixes("192.0.2.0/32", "192.0.2.2/31")},
		{"everything but one", prefixes("0.0.0.0/0"), prefixes("128.0.0.0/1"), prefixes("0.0.0.0/2"), prefixes("64.0.0.0/2")},
		{"an IPv6 hole", prefixes("2001:db8::/126"), prefixes("2001:db8::3/128"), nil, prefixes("2001:db8::/127", "2001:db8::2/128")},
	} {
		p := policyWith(t, Host{}, Rules{Always: tt.always, Never: tt.never}, tt.denied...)
		if d := cmp.Diff(tt.want, p.Always(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("%s: Always() (-want +got):\n%s", tt.name, d)
		}
	}
}

func goodVerdict() Verdict {
	return Verdict{
		Conn: Conn{
			Client:  netip.MustParseAddrPort("203.0.113.7:51234"),
			Server:  netip.MustParseAddrPort("198.51.100.2:110"),
			Service: Service{Protocol: POP3},
		},
		Login:  Login{Result: Success, Mechanism: "USER", User: "alice", Answer: "+OK"},
		Origin: FromHost,
	}
}

func TestCheckLogin(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Verdict)
		allow  bool
	}{
		{"honest", func(*Verdict) {}, true},
		{"honest, from inside of a gateway", func(v *Verdict) { v.Origin = FromInside }, true},
		{"honest, from a file", func(v *Verdict) { v.Origin = FromHandshake }, true},
		{"honest, name not shown", func(v *Verdict) { v.User, v.Mechanism = "", "GSSAPI" }, true},
		{"failure", func(v *Verdict) { v.Result = Failure }, false},
		{"tainted", func(v *Verdict) { v.Result = Tainted }, false},
		{"encrypted", func(v *Verdict) { v.Result = Encrypted }, false},
		{"no result", func(v *Verdict) { v.Result = 0 }, false},
		{"unauthenticated", func(v *Verdict) { v.Origin = Unauthenticated }, false},
		{"unknown origin", func(v *Verdict) { v.Origin = 99 }, false},
		{"anonymous", func(v *Verdict) { v.Anonymous = true }, false},
		{"anonymous by mechanism", func(v *Verdict) { v.Mechanism = "anonymous" }, false},
		{"anonymous by name", func(v *Verdict) { v.User = "Anonymous" }, false},
		{"anonymous of a domain", func(v *Verdict) { v.User = "anonymous@example.org" }, false},
		{"anonymous of a domain, as Cyrus takes it too", func(v *Verdict) { v.User = "ANONYMOUS%example.org" }, false},
		{"anonymous with a folder", func(v *Verdict) { v.User = "anonymous+" }, false},
		{"anonymous with blanks", func(v *Verdict) { v.User = " anonymous " }, false},
		{"a name that begins with anonymous", func(v *Verdict) { v.User = "anonymous2@example.org" }, true},
		{"preauth", func(v *Verdict) { v.Mechanism = "PREAUTH" }, false},
		{"no client", func(v *Verdict) { v.Conn.Client = netip.AddrPort{} }, false},
		{"no server", func(v *Verdict) { v.Conn.Server = netip.AddrPort{} }, false},
		{"to itself", func(v *Verdict) { v.Conn.Client = netip.MustParseAddrPort("198.51.100.2:4") }, false},
		{"to itself, mapped", func(v *Verdict) { v.Conn.Client = netip.MustParseAddrPort("[::ffff:198.51.100.2]:4") }, false},
	} {
		v := goodVerdict()
		tt.change(&v)
		if d := CheckLogin(&v); d.Allow != tt.allow || d.Allow != (d.Reason == "") {
			t.Errorf("%s: CheckLogin = %+v, want allow %v", tt.name, d, tt.allow)
		}
	}
}

func TestSafeAnswer(t *testing.T) {
	for _, tt := range []struct {
		result Result
		proto  Protocol
		answer string
		want   string
	}{
		{Success, POP3, "+OK Logged in.", "+OK Logged in."},
		{Success, IMAP, "hunter2 OK [CAPABILITY IMAP4rev1] Logged in", "OK [CAPABILITY IMAP4rev1] Logged in"},
		{Success, IMAP, "hunter2", ""},
		{Success, POP3, "+OK " + strings.Repeat("x", 500), "+OK " + strings.Repeat("x", AnswerLimit-4)},
		{Failure, POP3, "-ERR [AUTH] user hunter2 unknown", "-ERR [AUTH]"},
		{Failure, POP3, "-ERR hunter2", "-ERR"},
		{Failure, POP3, "-ERR [hunter2] no", "-ERR"},
		{Failure, POP3, "-ERR [AUTH", "-ERR"},
		{Failure, POP3, "hunter2 [AUTH]", ""},
		{Failure, IMAP, "hunter2 NO [AUTHENTICATIONFAILED] hunter2", "NO [AUTHENTICATIONFAILED]"},
		{Failure, IMAP, "a bad hunter2", "BAD"},
		{Failure, IMAP, "* BYE [ALERT] hunter2", "BYE [ALERT]"},
		{Failure, IMAP, "a hunter2 NO", ""},
		{Failure, IMAP, "OK NO [LIMIT] hunter2", "NO [LIMIT]"},
		{Tainted, IMAP, "a OK hunter2", "OK"},
		{Success, IMAP, "OK OK done", "OK done"},
		{Success, IMAP, "OK done", "OK done"},
		{Failure, IMAP, "", ""},
	} {
		v := goodVerdict()
		v.Result, v.Conn.Service.Protocol, v.Answer = tt.result, tt.proto, tt.answer
		if got := SafeAnswer(&v); got != tt.want {
			t.Errorf("SafeAnswer(%v %v %q) = %q, want %q", tt.result, tt.proto, tt.answer, got, tt.want)
		}
		v.Answer = tt.want
		if got := SafeAnswer(&v); got != tt.want {
			t.Errorf("SafeAnswer(%v %v %q) again = %q, want the same", tt.result, tt.proto, tt.want, got)
		}
	}
}

func TestPolicyCheckDoesNotAllocate(t *testing.T) {
	p, a := testPolicy(t), netip.MustParseAddr("203.0.113.7")
	if n := testing.AllocsPerRun(100, func() { p.Check(a) }); n != 0 {
		t.Errorf("Check allocates %v times, want 0", n)
	}
}

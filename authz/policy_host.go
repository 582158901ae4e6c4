package authz

import (
	"fmt"
	"net/netip"
)

// Host is what this host's network looks like at one moment. A netlink
// follower makes it; a change makes a new Host and a new Policy.
type Host struct {
	// Addresses are the host's own addresses, with the length of their subnet.
	Addresses []LinkPrefix
	// Containers are the subnets behind this host's bridges and container
	// networks: what comes from there may be a proxy for anybody.
	Containers []LinkPrefix
	// NextHops are the gateways of the default routes. Behind a router that
	// translates addresses, its address stands for the whole world.
	NextHops []LinkAddr
}

// LinkPrefix is an address with its subnet's length, and the interface it
// belongs to ("" if unknown).
type LinkPrefix struct {
	Prefix netip.Prefix
	Link   string
}

// LinkAddr is an address that is reached through an interface ("" if unknown).
type LinkAddr struct {
	Addr netip.Addr
	Link string
}

// reserved are the ranges that no client can honestly come from. The sources
// are the IANA special-purpose address registries (RFC 6890).
var reserved = []struct{ prefix, rule, reason string }{
	{"127.0.0.0/8", RuleLoopback, "is loopback"},                               // RFC 1122 §3.2.1.3
	{"::1/128", RuleLoopback, "is loopback"},                                   // RFC 4291 §2.5.3
	{"169.254.0.0/16", RuleLinkLocal, "is link-local"},                         // RFC 3927
	{"fe80::/10", RuleLinkLocal, "is link-local"},                              // RFC 4291 §2.5.6
	{"0.0.0.0/8", RuleUnspecified, "is unspecified (this network)"},            // RFC 1122 §3.2.1.3
	{"::/128", RuleUnspecified, "is unspecified"},                              // RFC 4291 §2.5.2
	{"224.0.0.0/4", RuleMulticast, "is multicast"},                             // RFC 5771
	{"ff00::/8", RuleMulticast, "is multicast"},                                // RFC 4291 §2.7
	{"240.0.0.0/4", RuleReserved, "is in a reserved range"},                    // RFC 1112 §4
	{"255.255.255.255/32", RuleBroadcast, "is the limited broadcast address"},  // RFC 919
	{"64:ff9b::7f00:0/104", RuleLoopback, "is loopback behind a NAT64 prefix"}, // RFC 6052 §2.1
}

// builtin makes the table of what is never granted unless Rules.Always names
// it. Where two rules hold for one address, the one added last is told.
func builtin(h Host, proxies []netip.Prefix) (prefixTable[verdict], error) {
	var t prefixTable[verdict]
	for _, r := range reserved {
		t.put(netip.MustParsePrefix(r.prefix), verdict{r.rule, r.reason})
	}
	for _, p := range proxies {
		p, err := NormalPrefix(p)
		if err != nil {
			return t, fmt.Errorf("trusted proxy: %w", err)
		}
		t.put(p, verdict{RuleProxy, "is a trusted proxy (" + PrefixString(p) + ")"})
	}
	for _, c := range h.Containers {
		p, err := NormalPrefix(c.Prefix)
		if err != nil {
			return t, fmt.Errorf("container subnet of %q: %w", c.Link, err)
		}
		t.put(p, verdict{RuleContainer, "is in the container subnet " + p.String() + of(c.Link)})
	}
	for _, n := range h.NextHops {
		a, err := normalAddr(n.Addr)
		if err != nil {
			return t, fmt.Errorf("next hop of a default route: %w", err)
		}
		t.put(single(a), verdict{RuleNextHop, "is the next hop of a default route" + in(n.Link)})
	}
	for _, o := range h.Addresses {
		if err := own(&t, o); err != nil {
			return t, err
		}
	}
	return t, nil
}

// own adds one of the host's own addresses and its subnet's broadcast address.
func own(t *prefixTable[verdict], o LinkPrefix) error {
	a, err := normalAddr(o.Prefix.Addr())
	if err != nil {
		return fmt.Errorf("own address on %q: %w", o.Link, err)
	}
	subnet, err := NormalPrefix(o.Prefix)
	if err != nil {
		return fmt.Errorf("own address on %q: %w", o.Link, err)
	}
	// RFC 3021: a /31 has no broadcast address.
	if a.Is4() && subnet.Bits() < 31 {
		b := subnet.Addr().As4()
		for i := subnet.Bits(); i < 32; i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		t.put(single(netip.AddrFrom4(b)), verdict{RuleBroadcast, "is the broadcast address of " + subnet.String() + of(o.Link)})
	}
	t.put(single(a), verdict{RuleOwn, "is one of this host's own addresses" + in(o.Link)})
	return nil
}

func of(link string) string {
	if link == "" {
		return ""
	}
	return " of " + Quote(link)
}

func in(link string) string {
	if link == "" {
		return ""
	}
	return " (" + Quote(link) + ")"
}

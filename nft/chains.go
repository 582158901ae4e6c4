package nft

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Priorities, each a little ahead of those whom the gate must not miss, or behind those
// whose work it must not lose.
const (
	behindMangle = -150 + 1  // NF_IP_PRI_MANGLE + 1
	beforeDstnat = -100 - 10 // NF_IP_PRI_NAT_DST - 10
	beforeFilter = 0 - 10    // NF_IP_PRI_FILTER - 10
	behindIPVS   = 100       // NF_IP_PRI_NAT_SRC; ip_vs_in is one ahead, source NAT in an order of its own
)

// staticRules and memberRules are one rule for each set of those who pass, with
// what then happens to them.
func staticRules(then match) []rule {
	return []rule{
		{all(sourceIn4(static4), then), "always"},
		{all(sourceIn6(static6), then), "always"},
	}
}

func memberRules(then4, then6 match, comment string) []rule {
	return []rule{
		{all(sourceIn4(allow4), then4), comment},
		{all(sourceIn6(allow6), then6), comment},
		{all(sourceNetIn6(net6), then6), comment},
	}
}

// gateChain lets in who passes and refuses everybody else. more is what a
// member's packet must show besides.
func gateChain(name string, more match) chain {
	pass := all(more, counter(), accept())
	rules := append(staticRules(accept()), memberRules(pass, pass, "members")...)
	return chain{name: name, comment: "who may open a connection", rules: append(rules, rule{all(counter(), reset()), "strangers"})}
}

// What costs most comes last in each rule: nearly all packets that pass are for
// other ports, or open nothing.

// filterChains guard the ports in two places. In prerouting the destination is
// still the one that the client named, before another table's DNAT can lead it
// around the gate. The input hook sees reassembled packets only: without
// connection tracking, a first fragment of 8 bytes passes prerouting with ports
// and no flags. And behind all others there the port is the one that it comes to.
func filterChains(cfg Config) []chain {
	arriving := all(knock(cfg.Ports), notLoopback())
	first := all(arriving, toThisHost())
	return append(brakeChains(cfg.Brakes, reset()),
		gateChain("gate", nil),
		chain{
			name: "pre", comment: "before any DNAT", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, beforeDstnat},
			rules: append(braked(cfg.Brakes, first), rule{all(first, jump("gate")), "new connections"}),
		},
		chain{
			name: "in", comment: "after reassembly", hook: &hook{"filter", unix.NF_INET_LOCAL_IN, behindIPVS},
			rules: []rule{{all(arriving, jump("gate")), "new connections"}},
		})
}

// redirectChains change the destination port alone, so that the relay listener
// sees both addresses as they are. A connection's translation outlives the
// membership: with its old source port, a former member would still be led to
// the relay port. So the guard asks again, for each new connection. Only what
// opens a connection is led: one that was there before the rules stays. Who names the
// relay port himself is refused before another table's DNAT can lead him around the guard.
func redirectChains(cfg Config) []chain {
	lead := all(counter(), portOnlyDNAT(cfg.RelayPort))
	arriving := all(knock([]uint16{cfg.RelayPort}), notLoopback())
	return append(brakeChains(cfg.Brakes, reset()),
		chain{name: "lead", comment: "to the relay port", rules: append(staticRules(lead), memberRules(lead, lead, "members")...)},
		chain{
			name: "pre", comment: "before any DNAT", hook: &hook{"nat", unix.NF_INET_PRE_ROUTING, beforeDstnat},
			rules: []rule{{all(knock(cfg.Ports), notLoopback(), toThisHost(), jump("lead")), "new connections"}},
		},
		gateChain("guard", all(translatedFrom(cfg.Ports))),
		chain{
			name: "direct", comment: "before any DNAT", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, beforeDstnat},
			rules: []rule{{all(arriving, toThisHost(), jump("guard")), "new connections"}},
		},
		chain{
			name: "in", comment: "at the relay port", hook: &hook{"filter", unix.NF_INET_LOCAL_IN, behindIPVS},
			rules: append(braked(cfg.Brakes, arriving), rule{all(arriving, jump("guard")), "new connections"}),
		})
}

// drainChain lets the kernel go on translating connections that were redirected
// before the mode was changed. It does while there is a chain of this kind, and
// tracks connections while a rule asks about them; this one does nothing else.
func drainChain() chain {
	return chain{
		name: "drain", comment: "connections that were redirected go on", hook: &hook{"nat", unix.NF_INET_PRE_ROUTING, beforeDstnat},
		rules: []rule{{stateNew(), "keeps connection tracking on"}},
	}
}

// markChains mark every packet, as it carries nothing over from the one before. They do
// it behind rules that write a mark of their own, as firewalls do that restore a
// connection's, and take the bits from everybody first. Where a brake bites, the packet
// stays as a stranger's.
func markChains(cfg Config) []chain {
	mark := changeMark(cfg.Mark, cfg.Mark)
	rules := []rule{{all(fromLoopback(), mark), "this host"}}
	rules = append(rules, staticRules(mark)...)
	rules = append(rules, memberRules(all(counter(), mark), all(counter(), mark), "members")...)
	return append(brakeChains(cfg.Brakes, accept()),
		chain{name: "mark_members", comment: "who gets the mark", rules: rules},
		chain{
			name: "pre", comment: "before routing", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, behindMangle},
			rules: slices.Concat(
				[]rule{{all(toPorts(cfg.Ports), changeMark(cfg.Mark, 0)), "whoever else set the mark"}},
				braked(cfg.Brakes, all(knock(cfg.Ports), notLoopback())),
				[]rule{{all(toPorts(cfg.Ports), jump("mark_members")), "packets to guarded ports"}}),
		})
}

// gatewayChains guard servers behind this host. Asking for a connection's state
// makes the kernel reassemble and track what it forwards. A connection whose
// entry was deleted must pass the gate again: its next segment makes a new entry
// and, if that one comes from the server, seems to begin there. What comes to this host
// and is led on (IPVS, transparent proxies) it does not forward: it sends that, as from
// the client.
func gatewayChains(cfg Config) []chain {
	guard := chain{name: "guard", comment: "connections to the mail servers"}
	for _, to := range []match{destinationIn4(servers4), destinationIn6(servers6)} {
		first := all(tcp(), opening(), to)
		guard.rules = append(guard.rules, braked(cfg.Brakes, first)...)
		guard.rules = append(guard.rules,
			rule{all(first, jump("gate")), "new connections"},
			rule{all(to, stateNew(), jump("gate")), "connections that were cut"},
			rule{all(to, inReply(), jump("gate")), "connections that were cut"})
	}
	forward := chain{
		name: "forward", comment: "what passes through this host", hook: &hook{"filter", unix.NF_INET_FORWARD, beforeFilter},
		rules: []rule{{all(toPorts(cfg.Ports), jump(guard.name)), "to guarded ports"}},
	}
	out := chain{
		name: "out", comment: "what this host sends on for others", hook: &hook{"filter", unix.NF_INET_LOCAL_OUT, beforeFilter},
		rules: []rule{{all(toPorts(cfg.Ports), notFromThisHost(), jump(guard.name)), "to guarded ports"}},
	}
	return append(brakeChains(cfg.Brakes, reset()), gateChain("gate", nil), guard, forward, out)
}

package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Table is the name of the gate's table, of family inet.
const Table = "relaygate"

// MaxElements is how many elements each set of members can hold.
const MaxElements = 1 << 20

// The sets. Those of members have keys with a timeout of their own and no
// ranges: looking up and adding cost the same at any size.
const (
	allow4  = "allow4"  // members' IPv4 addresses
	allow6  = "allow6"  // members' IPv6 addresses
	net6    = "net6"    // the first 64 bits of members' IPv6 addresses
	static4 = "static4" // IPv4 ranges that always pass
	static6 = "static6" // IPv6 ranges that always pass
	ports   = "ports"   // guarded TCP ports
)

// ruleset is what a table holds besides the members.
type ruleset struct {
	sets   []set
	chains []chain
}

type set struct {
	name     string
	key      keyType
	flags    uint32 // NFT_SET_*
	size     uint32 // 0: as many as are declared
	elements []setElement
	comment  string
}

// keyType is a data type by the number that nft(8) lists it by.
type keyType struct{ id, size uint32 }

var (
	ipv4Addr    = keyType{7, 4}
	ipv6Addr    = keyType{8, 16}
	inetService = keyType{13, 2}
)

type chain struct {
	name    string
	hook    *hook // nil: reached by a jump
	rules   []rule
	comment string
}

// hook makes a chain see packets, with the policy accept.
type hook struct {
	kind     string // the chain's type
	number   uint32 // NF_INET_*
	priority int32
}

type rule struct {
	expressions match
	comment     string
}

// declare returns the ruleset of cfg, which was validated. Members may number
// size in each set.
func declare(cfg Config, size uint32) ruleset {
	sets := []set{
		{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members"},
		{name: allow6, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members"},
		{name: net6, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members, /64 each"},
		staticSet(static4, ipv4Addr, cfg.Static, netip.MustParsePrefix("127.0.0.0/8")),
		staticSet(static6, ipv6Addr, cfg.Static, netip.MustParsePrefix("::1/128")),
	}
	switch cfg.Mode {
	case Filter:
		return ruleset{append(sets, portSet(cfg.Ports)), filterChains()}
	default:
		return ruleset{sets: sets}
	}
}

// filterChains guard the ports in two places. In prerouting the destination is
// still the one that the client named, before another table's DNAT can lead it
// around the gate. The input hook sees reassembled packets only: without
// connection tracking, a first fragment of 8 bytes passes prerouting with ports
// and no flags.
func filterChains() []chain {
	const (
		beforeDstnat = -100 - 10 // NF_IP_PRI_NAT_DST - 10
		beforeFilter = 0 - 10    // NF_IP_PRI_FILTER - 10
	)
	knock := all(tcpPortIn(ports), opening(), jump("gate"))
	return []chain{
		{name: "gate", comment: "who may open a connection", rules: []rule{
			{all(sourceIn4(static4), accept()), "always"},
			{all(sourceIn6(static6), accept()), "always"},
			{all(sourceIn4(allow4), counter(), accept()), "members"},
			{all(sourceIn6(allow6), counter(), accept()), "members"},
			{all(sourceNetIn6(net6), counter(), accept()), "members"},
			{all(counter(), reset()), "strangers"},
		}},
		{name: "pre", comment: "before any DNAT", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, beforeDstnat}, rules: []rule{
			{all(notLoopback(), toThisHost(), knock), "new connections"},
		}},
		{name: "in", comment: "after reassembly", hook: &hook{"filter", unix.NF_INET_LOCAL_IN, beforeFilter}, rules: []rule{
			{all(notLoopback(), knock), "new connections"},
		}},
	}
}

// portSet and the static sets are constant: the kernel refuses changes to them
// while a rule uses them, so that only the table as a whole can be replaced.
func portSet(numbers []uint16) set {
	s := set{name: ports, key: inetService, flags: unix.NFT_SET_CONSTANT, comment: "guarded"}
	for _, port := range slices.Compact(slices.Sorted(slices.Values(numbers))) {
		s.elements = append(s.elements, setElement{key: binary.BigEndian.AppendUint16(nil, port)})
	}
	s.size = uint32(len(s.elements))
	return s
}

// staticSet holds those of prefixes that are of the key's family, and always.
func staticSet(name string, key keyType, prefixes []netip.Prefix, always netip.Prefix) set {
	s := set{name: name, key: key, flags: unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL, comment: "always"}
	own := []netip.Prefix{always}
	for _, p := range prefixes {
		if p.Addr().Is4() == always.Addr().Is4() {
			own = append(own, p)
		}
	}
	s.elements = intervals(own)
	return s
}

// intervals returns the elements of an interval set: each range is its first
// address and, marked as an end, the first one behind it. Prefixes inside of
// others, which the kernel would refuse, are left out, and adjacent ones
// joined.
func intervals(prefixes []netip.Prefix) []setElement {
	// Prefixes are disjoint or one holds the other; sorted by address and
	// then by length, the holder comes first.
	sorted := slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		if c := a.Masked().Addr().Compare(b.Masked().Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var elements []setElement
	var end netip.Addr // first behind the last range; invalid if it has no end
	for _, p := range sorted {
		first := p.Masked().Addr()
		if len(elements) > 0 && (!end.IsValid() || first.Less(end)) {
			continue
		}
		if first == end {
			elements = elements[:len(elements)-1]
		} else {
			elements = append(elements, setElement{key: first.AsSlice()})
		}
		if end = behind(p); end.IsValid() {
			elements = append(elements, setElement{key: end.AsSlice(), flags: unix.NFT_SET_ELEM_INTERVAL_END})
		}
	}
	return elements
}

// behind returns the first address after p, or the zero Addr.
func behind(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

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
	ports   = "ports"   // guarded TCP ports, if there are several

	servers4 = "servers4" // IPv4 ranges of guarded servers
	servers6 = "servers6" // IPv6 ranges of guarded servers
)

// ruleset is what a table holds besides the members.
type ruleset struct {
	sets   []set
	chains []chain
}

type set struct {
	name     string
	key      keyType
	flags    uint32        // NFT_SET_*
	size     uint32        // 0: as many as are declared
	timeout  time.Duration // of an element that names none; 0: for ever
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
// size in each set. UserSets has none.
func declare(cfg Config, size uint32) ruleset {
	if cfg.Mode == UserSets {
		return ruleset{}
	}
	r := ruleset{sets: []set{
		{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members"},
		{name: allow6, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members"},
		{name: net6, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT, size: size, comment: "members, /64 each"},
		rangeSet(static4, ipv4Addr, "always", append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, cfg.Static...)),
		rangeSet(static6, ipv6Addr, "always", append([]netip.Prefix{netip.MustParsePrefix("::1/128")}, cfg.Static...)),
	}}
	switch cfg.Mode {
	case Filter:
		r.chains = filterChains(cfg)
	case Redirect:
		r.chains = redirectChains(cfg)
	case Mark:
		r.chains = markChains(cfg)
	case Gateway:
		r.sets = append(r.sets,
			rangeSet(servers4, ipv4Addr, "guarded", cfg.Servers),
			rangeSet(servers6, ipv6Addr, "guarded", cfg.Servers))
		r.chains = gatewayChains(cfg)
	}
	if cfg.drain {
		r.chains = append(r.chains, drainChain())
	}
	if len(r.chains) > 0 {
		if len(cfg.Ports) > 1 {
			r.sets = append(r.sets, portSet(cfg.Ports))
		}
		r.sets = append(r.sets, brakeSets(cfg.Brakes, size)...)
	}
	return r
}

// portSet and rangeSet are constant: the kernel refuses changes to them
// while a rule uses them, so that only the table as a whole can be replaced.
func portSet(numbers []uint16) set {
	s := set{name: ports, key: inetService, flags: unix.NFT_SET_CONSTANT, comment: "guarded"}
	for _, port := range slices.Compact(slices.Sorted(slices.Values(numbers))) {
		s.elements = append(s.elements, setElement{key: binary.BigEndian.AppendUint16(nil, port)})
	}
	s.size = uint32(len(s.elements))
	return s
}

// rangeSet holds those of prefixes that are of the key's family.
func rangeSet(name string, key keyType, comment string, prefixes []netip.Prefix) set {
	s := set{name: name, key: key, flags: unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL, comment: comment}
	var own []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().BitLen() == int(key.size)*8 {
			own = append(own, p)
		}
	}
	s.elements = intervals(own)
	return s
}

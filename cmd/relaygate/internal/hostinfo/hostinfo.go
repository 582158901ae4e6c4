// Package hostinfo follows what the policy has to know about this host: its own
// addresses, the subnets behind its bridges, and the next hops of its default
// routes. It reads them by netlink and listens for changes; after any error it
// reads everything again.
package hostinfo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/authz"
)

// Read returns the facts of the current network namespace.
func Read() (authz.Host, error) {
	var h authz.Host
	links, err := readLinks()
	if err != nil {
		return h, err
	}
	if err := readAddresses(&h, links); err != nil {
		return h, err
	}
	if err := readRoutes(&h, links); err != nil {
		return h, err
	}
	return h, nil
}

// linkFacts is what matters of an interface.
type linkFacts struct {
	name string
	// inner is true for a bridge with virtual ports alone: containers or
	// guests are behind it. A bridge with a real port is an ordinary network.
	inner bool
}

func readLinks() (map[int]linkFacts, error) {
	list, err := Links()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	outward := make(map[int]bool) // bridges with a real port, by index
	for _, l := range list {
		if isRealPort(l) {
			outward[l.Attrs().MasterIndex] = true
		}
	}
	facts := make(map[int]linkFacts, len(list))
	for _, l := range list {
		a := l.Attrs()
		facts[a.Index] = linkFacts{name: a.Name, inner: l.Type() == "bridge" && !outward[a.Index]}
	}
	return facts, nil
}

// isRealPort tells whether a bridge port leads out of this host.
func isRealPort(l netlink.Link) bool {
	if l.Attrs().MasterIndex == 0 {
		return false
	}
	switch l.Type() {
	case "device", "vlan", "bond", "team":
		return true
	}
	return false
}

// PartOf names the bridge or bond that an interface is a part of, which does not show
// what is this host's; "" if none.
func PartOf(l netlink.Link) string {
	if l.Attrs().MasterIndex == 0 {
		return ""
	}
	m, err := netlink.LinkByIndex(l.Attrs().MasterIndex)
	if err != nil || m.Type() == "vrf" {
		return ""
	}
	return m.Attrs().Name
}

// Plain says whether what passes what an interface is made of, if anything, passes itself,
// flow tables or not: by a bridge's port, or below a VLAN, they go on without it.
func Plain(l netlink.Link) bool {
	switch l.Type() {
	case "device", "bond", "veth", "tuntap": // network cards, containers', guests'
		return true
	}
	return false
}

func readAddresses(h *authz.Host, links map[int]linkFacts) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		prefix, ok := prefixOf(a.IPNet)
		if !ok {
			return fmt.Errorf("address %v of interface %d cannot be read", a.IPNet, a.LinkIndex)
		}
		link := links[a.LinkIndex]
		own := authz.LinkPrefix{Prefix: prefix, Link: link.name}
		h.Addresses = append(h.Addresses, own)
		if link.inner {
			h.Containers = append(h.Containers, authz.LinkPrefix{Prefix: prefix.Masked(), Link: link.name})
		}
	}
	return nil
}

// readRoutes adds the next hops of default routes, and the subnets that are behind
// a bridge without its having an address of them.
func readRoutes(h *authz.Host, links map[int]linkFacts) error {
	// All tables: policy routing puts default routes elsewhere than in main.
	routes, err := dump(func() ([]netlink.Route, error) {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if link := links[r.LinkIndex]; link.inner && onLink(&r) {
			if subnet, ok := prefixOf(r.Dst); ok {
				h.Containers = append(h.Containers, authz.LinkPrefix{Prefix: subnet, Link: link.name})
			}
		}
		if !isDefault(&r) {
			continue
		}
		hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
		for _, hop := range append(hops, r.MultiPath...) {
			if addr, ok := gateway(hop); ok {
				h.NextHops = append(h.NextHops, authz.LinkAddr{Addr: addr, Link: links[hop.LinkIndex].name})
			}
		}
	}
	return nil
}

// defaultBits is the longest prefix of what serves as a default route: halves of
// IPv4, as VPNs set them, and 2000::/3, which is all that was given out of IPv6
// (RFC 4291 §2.4).
const defaultBits = 3

// isDefault tells whether a route is for every destination, or as good as that.
func isDefault(r *netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones <= defaultBits
}

// onLink tells whether a route leads to neighbours themselves, by no router.
func onLink(r *netlink.Route) bool {
	return r.Type == unix.RTN_UNICAST && !isDefault(r) && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
}

// gateway is the next hop's address; an IPv4 route can have an IPv6 one.
func gateway(hop *netlink.NexthopInfo) (netip.Addr, bool) {
	ip := hop.Gw
	if via, ok := hop.Via.(*netlink.Via); ok && ip == nil {
		ip = via.Addr
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

// Links lists the interfaces as they are at one moment, also where others come and go.
func Links() ([]netlink.Link, error) { return dump(netlink.LinkList) }

// dumpTries bounds how often a dump is repeated that changed while it was read.
const dumpTries = 10

// dump repeats a netlink dump until it is consistent.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, err
}

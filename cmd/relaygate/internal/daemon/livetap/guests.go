package livetap

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"relaygate/cmd/relaygate/internal/hostinfo"
)

// noGuests refuses an interface through which containers and guests send what the tap
// would take for this host's own words: one below a bridge, or with a macvlan on it.
// What of it is in another namespace cannot be seen.
func noGuests(name string) error {
	links, err := hostinfo.Links()
	if err != nil {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Name != name {
			continue
		}
		switch by := guests(links, l); {
		case by == nil:
		case bridges(by):
			return fmt.Errorf("interface %s is a part of %s, where containers and guests could speak as this host: name %[2]s in watch.interfaces", name, by.Attrs().Name)
		default:
			return fmt.Errorf("interface %s also carries %s, by which containers and guests could speak as this host", name, by.Attrs().Name)
		}
	}
	return nil
}

// guests is the interface by which they reach this one: what it is a port of, or what
// was made on it, or on that again; nil if there is none.
func guests(links []netlink.Link, l netlink.Link) netlink.Link {
	for _, other := range links {
		attrs := other.Attrs()
		switch {
		case attrs.Index == l.Attrs().MasterIndex:
			if bridges(other) {
				return other
			}
		case attrs.ParentIndex != l.Attrs().Index || attrs.NetNsID >= 0:
			continue
		case other.Type() == "macvlan" || other.Type() == "macvtap" || other.Type() == "ipvlan" || other.Type() == "ipvtap":
			return other
		case other.Type() != "vlan":
			continue
		}
		if by := guests(links, other); by != nil {
			return by
		}
	}
	return nil
}

func bridges(l netlink.Link) bool { return l.Type() == "bridge" || l.Type() == "openvswitch" }

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Cutter ends connections that are in progress, which the gate, that sees only
// how connections begin, does not. It is not safe for concurrent use.
type Cutter struct{ sockets, tracking *netlink.Conn }

// OpenCutter works in the network namespace that netns, a file descriptor, is
// of; 0 is the caller's own. It is needed until OpenCutter has returned.
func OpenCutter(netns int) (*Cutter, error) {
	sockets, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: netns, MessageBufferSize: answerSize})
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	tracking, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns, MessageBufferSize: answerSize})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netfilter socket: %w", err), sockets.Close())
	}
	return &Cutter{sockets, tracking}, nil
}

// Close closes its sockets.
func (c *Cutter) Close() error {
	if err := errors.Join(c.sockets.Close(), c.tracking.Close()); err != nil {
		return fmt.Errorf("close netlink sockets: %w", err)
	}
	return nil
}

// Cut ends the TCP connections from the addresses of from to these ports: with a
// reset to both ends for a socket of this host, and its entry in connection
// tracking is deleted. Of a forwarded connection there is only that; its next
// segment then meets the gate. ports are those that clients name and, with
// Redirect, the relay port. Errors wrap ErrUnsupported if the kernel cannot
// (CONFIG_INET_DIAG_DESTROY, CONFIG_NF_CT_NETLINK); what it can is done.
func (c *Cutter) Cut(from netip.Prefix, ports []uint16) (sockets, entries int, err error) {
	from, err = unmapPrefix(from)
	if err != nil {
		return 0, 0, fmt.Errorf("cut connections: %w", err)
	}
	// Sockets first: their resets find the way back through the entries.
	live, failed := c.find(from, ports)
	for _, s := range live {
		switch err := c.destroy(s); {
		case err == nil:
			sockets++
		case !errors.Is(err, unix.ENOENT): // it ended meanwhile
			failed = errors.Join(failed, err)
		}
		if errors.Is(failed, ErrUnsupported) {
			break
		}
	}
	entries, err = c.forget(from, ports, nil)
	return sockets, entries, errors.Join(failed, err)
}

// Forget deletes the entries in connection tracking of connections that came
// from these addresses to these ports and that no socket of this host belongs to
// any more. With Redirect, a former member who uses a port of his again is else
// led to the relay port, whose guard refuses, as long as the entry lasts. It costs
// the same for many addresses as for one.
func (c *Cutter) Forget(ports []uint16, from ...netip.Prefix) (entries int, err error) {
	for _, cover := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		former, err := gather(from, cover.Addr().Is4())
		if err != nil {
			return entries, fmt.Errorf("forget connections: %w", err)
		}
		if len(former) == 1 {
			for p := range former {
				cover = p
			}
		}
		if len(former) == 0 {
			continue
		}
		n, err := c.forget(cover, ports, func(found []tracked) ([]tracked, error) {
			found = slices.DeleteFunc(found, func(t tracked) bool { return !former.contains(t.client.Addr()) })
			return c.finished(found, cover)
		})
		if entries += n; err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// prefixes are a set.
type prefixes map[netip.Prefix]bool

// gather returns those of list that are of one family.
func gather(list []netip.Prefix, ipv4 bool) (prefixes, error) {
	set := make(prefixes)
	for _, p := range list {
		p, err := unmapPrefix(p)
		if err != nil {
			return nil, err
		}
		if p.Addr().Is4() == ipv4 {
			set[p] = true
		}
	}
	return set, nil
}

func (set prefixes) contains(addr netip.Addr) bool {
	for bits := addr.BitLen(); bits >= 0; bits-- {
		if p, err := addr.Prefix(bits); err == nil && set[p] {
			return true
		}
	}
	return false
}

// finished leaves out those of found that a socket belongs to. Its local port may
// be another than the one that the client named.
func (c *Cutter) finished(found []tracked, from netip.Prefix) ([]tracked, error) {
	if len(found) == 0 {
		return nil, nil
	}
	sockets, err := c.find(from, nil)
	if err != nil {
		return nil, err
	}
	live := make(map[netip.AddrPort]bool, len(sockets))
	for _, s := range sockets {
		live[s.client] = true
	}
	return slices.DeleteFunc(found, func(t tracked) bool { return live[t.client] }), nil
}

// forget deletes the entries that narrow, if it is not nil, leaves of all that
// match.
func (c *Cutter) forget(from netip.Prefix, ports []uint16, narrow func([]tracked) ([]tracked, error)) (n int, err error) {
	found, err := c.tracked(from, ports)
	if err == nil && narrow != nil {
		found, err = narrow(found)
	}
	if err != nil {
		return 0, err
	}
	for _, t := range found {
		switch err := c.untrack(t); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // it ran out meanwhile
			return n, err
		}
	}
	return n, nil
}

// wanted says whether a connection from client to a port is one of those.
func wanted(client netip.AddrPort, port uint16, from netip.Prefix, ports []uint16) bool {
	return from.Contains(client.Addr()) && (ports == nil || slices.Contains(ports, port))
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"relaygate/authz"
)

// Cutter ends connections that are in progress, which the gate, that sees only
// how connections begin, does not. It is not safe for concurrent use.
type Cutter struct{ sockets, tracking conn }

// OpenCutter works in the network namespace that netns, a file descriptor, is
// of; 0 is the caller's own. It is needed until OpenCutter has returned.
func OpenCutter(netns int) (*Cutter, error) {
	sockets, err := open(unix.NETLINK_SOCK_DIAG, netns)
	if err != nil {
		return nil, err
	}
	tracking, err := open(unix.NETLINK_NETFILTER, netns)
	if err != nil {
		return nil, errors.Join(err, sockets.Close())
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

// Cut ends the TCP connections from these addresses to these ports: with a
// reset to both ends for a socket of this host, and its entry in connection
// tracking is deleted. Of a forwarded connection there is only that; its next
// segment then meets the gate. ports are those that clients name and, with
// Redirect, the relay port. Errors wrap ErrUnsupported if the kernel cannot
// (CONFIG_INET_DIAG_DESTROY, CONFIG_NF_CT_NETLINK); what it can is done. It costs
// the same for many prefixes as for a few.
func (c *Cutter) Cut(ports []uint16, from ...netip.Prefix) (sockets, entries int, err error) {
	var failed []error
	each, err := gather(from, ports)
	for _, group := range each {
		// Sockets first: their resets find the way back through the entries.
		n, err := c.destroyAll(group, ports)
		sockets += n
		failed = append(failed, err)
		found, err := c.tracked(group, ports)
		failed = append(failed, err)
		n, err = c.untrackAll(found)
		entries += n
		failed = append(failed, err)
	}
	return sockets, entries, errors.Join(append(failed, err)...)
}

// Forget deletes the entries in connection tracking of connections that came
// from these addresses to these ports and that no socket of this host belongs to
// any more. With Redirect, a former member who uses a port of his again is else
// led to the relay port, whose guard refuses, as long as the entry lasts. It costs
// the same for many prefixes as for a few.
func (c *Cutter) Forget(ports []uint16, from ...netip.Prefix) (entries int, err error) {
	each, err := gather(from, ports)
	failed := []error{err}
	for _, group := range each {
		found, err := c.tracked(group, ports)
		if err == nil {
			found, err = c.finished(found, group)
		}
		failed = append(failed, err)
		n, err := c.untrackAll(found)
		entries += n
		failed = append(failed, err)
	}
	return entries, errors.Join(failed...)
}

// finished leaves out those of found that a socket belongs to. Its local port may
// be another than the one that the client named.
func (c *Cutter) finished(found []tracked, from sources) ([]tracked, error) {
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

// sources are prefixes of one family, and one that covers them for the kernel to
// choose by.
type sources struct {
	cover netip.Prefix
	set   map[netip.Prefix]bool
}

// gather sorts prefixes by family. What is no prefix is left out and told; without
// a port there is nothing to choose.
func gather(list []netip.Prefix, ports []uint16) (groups []sources, err error) {
	if len(ports) == 0 {
		return nil, errors.New("choose connections: no port is given")
	}
	four := sources{netip.MustParsePrefix("0.0.0.0/0"), make(map[netip.Prefix]bool)}
	six := sources{netip.MustParsePrefix("::/0"), make(map[netip.Prefix]bool)}
	for _, p := range list {
		p, refused := authz.NormalPrefix(p)
		switch {
		case refused != nil:
			err = errors.Join(err, fmt.Errorf("choose connections: %w", refused))
		case p.Addr().Is4():
			four.set[p] = true
		default:
			six.set[p] = true
		}
	}
	for _, group := range []sources{four, six} {
		if len(group.set) == 1 {
			for p := range group.set {
				group.cover = p
			}
		}
		if len(group.set) > 0 {
			groups = append(groups, group)
		}
	}
	return groups, err
}

// family is AF_INET or AF_INET6.
func (s sources) family() byte {
	if s.cover.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// match says whether a connection from client to a port is one of those; all
// ports are if that is nil.
func (s sources) match(client netip.AddrPort, port uint16, ports []uint16) bool {
	if !s.cover.Contains(client.Addr()) || ports != nil && !slices.Contains(ports, port) {
		return false
	}
	for bits := client.Addr().BitLen(); bits >= 0; bits-- {
		if p, err := client.Addr().Prefix(bits); err == nil && s.set[p] {
			return true
		}
	}
	return false
}

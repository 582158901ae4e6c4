//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"relaygate/bpf/netns"
)

// The addresses are those that RFC 5737 and RFC 3849 set aside for examples.
var (
	server4   = netip.MustParseAddr("198.51.100.25")
	server6   = netip.MustParseAddr("2001:db8:25::25")
	client4   = netip.MustParseAddr("192.0.2.10")
	client6   = netip.MustParseAddr("2001:db8:6::10")
	stranger4 = netip.MustParseAddr("203.0.113.66")
	stranger6 = netip.MustParseAddr("2001:db8:bad::66")
)

// dialTimeout bounds one connection attempt; everything is local.
const dialTimeout = 2 * time.Second

// host is one machine of the demo's network.
type host struct {
	name string
	ns   *netns.Namespace
}

// network is the demo's machines, joined to the server by a veth pair each.
type network struct {
	server                     *netns.Namespace
	client4, client6, stranger *host
}

func newNetwork() (n *network, err error) {
	n = &network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.server, err = netns.New(); err != nil {
		return n, err
	}
	err = n.server.Do(func() error {
		return netns.AddAddresses("lo", netip.PrefixFrom(server4, 32), netip.PrefixFrom(server6, 128))
	})
	if err != nil {
		return n, err
	}
	for _, h := range []struct {
		host    **host
		name    string
		addrs   []netip.Addr
		gateway []netip.Addr
	}{
		{&n.client4, "IPv4 client", []netip.Addr{client4}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		{&n.client6, "IPv6 client", []netip.Addr{client6}, []netip.Addr{netip.MustParseAddr("2001:db8:6::1")}},
		{
			&n.stranger, "stranger",
			[]netip.Addr{stranger4, stranger6},
			[]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:bad::1")},
		},
	} {
		if *h.host, err = n.addHost(h.name, h.addrs, h.gateway); err != nil {
			return n, fmt.Errorf("make the %s: %w", h.name, err)
		}
	}
	return n, nil
}

// addHost makes a namespace and joins it to the server, which is its gateway.
func (n *network) addHost(name string, addrs, gateways []netip.Addr) (*host, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	h := &host{name: name, ns: ns}
	iface := "to-" + strings.ReplaceAll(strings.ToLower(name), " ", "-")
	err = netns.Join(ns, "eth0", subnets(addrs), n.server, iface, subnets(gateways))
	if err != nil {
		return h, err
	}
	for _, gw := range gateways {
		if err := ns.DefaultRoute(gw); err != nil {
			return h, err
		}
	}
	return h, nil
}

// subnets gives each address the subnet size that is usual for its family.
func subnets(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		out = append(out, netip.PrefixFrom(a, bits))
	}
	return out
}

// Close drops the namespaces, and with them interfaces, routes and rules.
func (n *network) Close() error {
	errs := []error{n.server.Close()}
	for _, h := range []*host{n.client4, n.client6, n.stranger} {
		if h != nil {
			errs = append(errs, h.ns.Close())
		}
	}
	return errors.Join(errs...)
}

// everybody lists each machine with each server address that it can reach.
func (n *network) everybody() []target {
	return []target{
		n.client4.at(server4), n.client6.at(server6),
		n.stranger.at(server4), n.stranger.at(server6),
	}
}

// dial opens a TCP connection from the host's namespace.
func (h *host) dial(ctx context.Context, to netip.AddrPort) (conn net.Conn, err error) {
	err = h.ns.Do(func() error {
		// One attempt, one address: no resolver and no racing of families.
		d := net.Dialer{Timeout: dialTimeout}
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// target is a host that tries port 25 of a server address.
type target struct {
	*host
	server netip.Addr
}

func (h *host) at(server netip.Addr) target { return target{h, server} }

func (t target) refusedLine() string {
	return fmt.Sprintf("%s → [%s]:25 is refused", t.name, t.server)
}

// refused is nil if a connection to port 25 is answered with a reset.
func (t target) refused(ctx context.Context) error {
	conn, err := t.dial(ctx, netip.AddrPortFrom(t.server, smtpPort))
	if err == nil {
		return errors.Join(fmt.Errorf("%s → [%s]:25 was let in, and should be refused", t.name, t.server), conn.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("%s → [%s]:25 should be refused: %w", t.name, t.server, err)
}

// waitRefused tries until the connection is refused, for at most limit.
func (t target) waitRefused(ctx context.Context, limit time.Duration) error {
	return poll(ctx, limit, 100*time.Millisecond, func() error { return t.refused(ctx) })
}

// poll runs check at once and then every interval until it returns nil; after
// limit it returns what check last said.
func poll(ctx context.Context, limit, interval time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", limit, err)
		case <-ticker.C:
		}
	}
}

// Package lab is the small world in which the demo and the end-to-end tests
// play: network namespaces for a mail server, two clients and a stranger, a
// built-in POP3, IMAP and SMTP server, and the real daemon as a process.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"relaygate/bpf/netns"
)

// The addresses are those that RFC 5737 and RFC 3849 set aside for examples.
var (
	Server4   = netip.MustParseAddr("198.51.100.25")
	Server6   = netip.MustParseAddr("2001:db8:25::25")
	Client4   = netip.MustParseAddr("192.0.2.10")
	Client6   = netip.MustParseAddr("2001:db8:6::10")
	Stranger4 = netip.MustParseAddr("203.0.113.66")
	Stranger6 = netip.MustParseAddr("2001:db8:bad::66")
)

// The ports of the built-in mail server.
const (
	SMTPPort = 25
	POP3Port = 110
	IMAPPort = 143
)

// dialTimeout ends a connection attempt that hangs, and talkTimeout all that is said then.
// Everything is local, and slow only where the machine is busy.
const (
	dialTimeout = 10 * time.Second
	talkTimeout = time.Minute
)

// Host is one machine of the network.
type Host struct {
	Name string
	NS   *netns.Namespace
	// From is the address that it connects from, if it has many.
	From netip.Addr
}

// Network is the machines, joined to the server by a veth pair each.
type Network struct {
	Server                     *netns.Namespace
	Client4, Client6, Stranger *Host
}

// NewNetwork makes the namespaces, addresses and routes.
func NewNetwork() (n *Network, err error) {
	n = &Network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.Server, err = netns.New(); err != nil {
		return n, err
	}
	err = n.Server.Do(func() error {
		// A new namespace does what the first one does.
		err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
		return errors.Join(err, netns.AddAddresses("lo", netip.PrefixFrom(Server4, 32), netip.PrefixFrom(Server6, 128)))
	})
	if err != nil {
		return n, err
	}
	return n, n.addHosts(n.Server)
}

// addHosts makes the clients and the stranger, behind a router.
func (n *Network) addHosts(router *netns.Namespace) (err error) {
	for _, h := range []struct {
		host            **Host
		name, iface     string
		addrs, gateways []netip.Addr
	}{
		{
			&n.Client4, "IPv4 client", "to-client4",
			[]netip.Addr{Client4},
			[]netip.Addr{netip.MustParseAddr("192.0.2.1")},
		},
		{
			&n.Client6, "IPv6 client", "to-client6",
			[]netip.Addr{Client6},
			[]netip.Addr{netip.MustParseAddr("2001:db8:6::1")},
		},
		{
			&n.Stranger, "stranger", "to-stranger",
			[]netip.Addr{Stranger4, Stranger6},
			[]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:bad::1")},
		},
	} {
		if *h.host, err = addHost(router, h.name, h.iface, h.addrs, h.gateways); err != nil {
			return fmt.Errorf("make the %s: %w", h.name, err)
		}
	}
	return nil
}

// addHost makes a namespace and joins it to a router, which is its gateway.
func addHost(router *netns.Namespace, name, iface string, addrs, gateways []netip.Addr) (*Host, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, NS: ns}
	if err := netns.Join(ns, "eth0", subnets(addrs), router, iface, subnets(gateways)); err != nil {
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
func (n *Network) Close() error {
	errs := []error{n.Server.Close()}
	for _, h := range []*Host{n.Client4, n.Client6, n.Stranger} {
		if h != nil {
			errs = append(errs, h.NS.Close())
		}
	}
	return errors.Join(errs...)
}

// Everybody lists each machine with each server address that it can reach.
func (n *Network) Everybody() []Target {
	return []Target{
		n.Client4.At(Server4), n.Client6.At(Server6),
		n.Stranger.At(Server4), n.Stranger.At(Server6),
	}
}

// Dial opens a TCP connection from the host's namespace, with a deadline.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (conn net.Conn, err error) {
	err = h.NS.Do(func() error {
		d := net.Dialer{Timeout: dialTimeout}
		if h.From.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.From, 0))
		}
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(talkTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Target is a host that tries port 25 of a server address.
type Target struct {
	*Host
	Server netip.Addr
}

// At makes a Target.
func (h *Host) At(server netip.Addr) Target { return Target{h, server} }

func (t Target) String() string {
	return fmt.Sprintf("%s → %s", t.Name, netip.AddrPortFrom(t.Server, SMTPPort))
}

// Refused is nil if a connection to port 25 is answered with a reset.
func (t Target) Refused(ctx context.Context) error {
	conn, err := t.Dial(ctx, netip.AddrPortFrom(t.Server, SMTPPort))
	if err == nil {
		return errors.Join(fmt.Errorf("%s was let in, and should be refused", t), conn.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("%s should be refused: %w", t, err)
}

// Open is nil if port 25 lets the host in; greeting is the server's first line.
func (t Target) Open(ctx context.Context) (greeting string, err error) {
	conn, err := t.Dial(ctx, netip.AddrPortFrom(t.Server, SMTPPort))
	if err != nil {
		return "", fmt.Errorf("%s should be open: %w", t, err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return "", err
	}
	buf := make([]byte, 200)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// Poll runs check at once and then every interval until it returns nil. It returns what
// a check said that began after limit: what held in time is never missed, however late
// a busy machine lets somebody look.
func Poll(ctx context.Context, limit, interval time.Duration, check func() error) error {
	end := time.Now().Add(limit)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		last := time.Now().After(end) || ctx.Err() != nil
		err := check()
		if err == nil {
			return nil
		}
		if last {
			return fmt.Errorf("after %v: %w", limit, err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"relaygate/bpf/netns"
)

// The router's own addresses inside.
var (
	router4 = netip.MustParseAddr("198.51.100.1")
	router6 = netip.MustParseAddr("2001:db8:25::1")
)

// Lan is the router's interface towards the mail server, Dmz the one towards a
// neighbour that is no mail server.
const (
	Lan = "lan"
	Dmz = "dmz"
)

// Gateway is a Network whose server is behind a router, which everybody else is
// joined to. The router also has a neighbour inside that is no mail server.
type Gateway struct {
	*Network
	Router    *netns.Namespace
	Neighbour *Host
}

// NewGateway makes the namespaces, addresses and routes, and turns forwarding on.
func NewGateway() (g *Gateway, err error) {
	g = &Gateway{Network: &Network{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if g.Router, err = netns.New(); err != nil {
		return g, err
	}
	if err := g.Router.Do(forward); err != nil {
		return g, err
	}
	if g.Server, err = netns.New(); err != nil {
		return g, err
	}
	if err := g.JoinServer(); err != nil {
		return g, err
	}
	g.Neighbour, err = addHost(g.Router, "neighbour", Dmz,
		[]netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8:d::2")},
		[]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8:d::1")})
	if err != nil {
		return g, fmt.Errorf("make the neighbour: %w", err)
	}
	return g, g.addHosts(g.Router)
}

// JoinServer joins the mail server to the router, by an interface of its own.
func (g *Gateway) JoinServer() error {
	inside, out := subnets([]netip.Addr{Server4, Server6}), subnets([]netip.Addr{router4, router6})
	if err := netns.Join(g.Server, "eth0", inside, g.Router, Lan, out); err != nil {
		return fmt.Errorf("join the mail server: %w", err)
	}
	for _, gw := range []netip.Addr{router4, router6} {
		if err := g.Server.DefaultRoute(gw); err != nil {
			return err
		}
	}
	return nil
}

// forward makes the current namespace a router that believes any source address,
// as many do. Without duplicate address detection it asks for neighbours at once.
func forward() error {
	var errs []error
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
	} {
		errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
	}
	return errors.Join(errs...)
}

// Close drops the namespaces.
func (g *Gateway) Close() error {
	errs := []error{g.Network.Close(), g.Router.Close()}
	if g.Neighbour != nil {
		errs = append(errs, g.Neighbour.NS.Close())
	}
	return errors.Join(errs...)
}

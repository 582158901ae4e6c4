package hostinfo

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	raw "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

var must = bpftest.Must

// follow runs Follow inside ns and returns what it publishes.
func follow(t *testing.T, ns *netns.Namespace) <-chan authz.Host {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	hosts := make(chan authz.Host, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- ns.Do(func() error {
			return Follow(ctx, func(h authz.Host) { hosts <- h }, func(err error) { t.Logf("follow: %v", err) })
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Follow ended with %v", err)
		}
	})
	return hosts
}

// until reads snapshots until one decides about addr as wanted.
func until(t *testing.T, hosts <-chan authz.Host, addr, rule string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	last := "nothing published"
	for {
		select {
		case h := <-hosts:
			p, err := authz.NewPolicy(h, authz.Rules{})
			if err != nil {
				t.Fatalf("NewPolicy: %v", err)
			}
			d := p.Check(netip.MustParseAddr(addr))
			if d.Rule == rule {
				return
			}
			last = d.Rule + ": " + d.Reason
		case <-timeout:
			t.Fatalf("%s: want rule %q, last said %q", addr, rule, last)
		}
	}
}

func TestFollowSeesEachChange(t *testing.T) {
	ns, peer := bpftest.Namespace(t), bpftest.Namespace(t)
	err := netns.Join(
		ns, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		peer, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	)
	must(t, err)
	hosts := follow(t, ns)
	until(t, hosts, "192.0.2.1", authz.RuleOwn)

	bpftest.Do(t, ns, func() error {
		return netns.AddAddresses("eth0", netip.MustParsePrefix("2001:db8::1/64"))
	})
	until(t, hosts, "2001:db8::1", authz.RuleOwn)

	must(t, ns.DefaultRoute(netip.MustParseAddr("192.0.2.254")))
	until(t, hosts, "192.0.2.254", authz.RuleNextHop)

	bpftest.Do(t, ns, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}); err != nil {
			return err
		}
		return netns.AddAddresses("docker0", netip.MustParsePrefix("172.17.0.1/16"))
	})
	until(t, hosts, "172.17.0.9", authz.RuleContainer)

	// As LXD's ipv4.routes and Docker's routed networks do.
	addRoute(t, ns, "docker0", "172.31.5.0/24", "")
	until(t, hosts, "172.31.5.9", authz.RuleContainer)

	bpftest.Do(t, ns, func() error {
		link, err := netlink.LinkByName("docker0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	until(t, hosts, "172.17.0.9", authz.RuleDefault)
}

// addRoute adds a route by an interface, and by a next hop if one is given.
func addRoute(t *testing.T, ns *netns.Namespace, name, dst, gw string) {
	t.Helper()
	bpftest.In(t, ns, func() {
		link, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(link))
		to, err := netlink.ParseIPNet(dst)
		must(t, err)
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: net.ParseIP(gw)}
		if r.Gw == nil {
			r.Scope = netlink.SCOPE_LINK
		}
		must(t, netlink.RouteAdd(r))
	})
}

// A VPN sets two halves beside the default route of before, and many hosts have
// 2000::/3 as their default route of IPv6. A route to a part of the world is
// nothing of the kind.
func TestWhatServesAsDefaultRoute(t *testing.T) {
	ns, peer := bpftest.Namespace(t), bpftest.Namespace(t)
	err := netns.Join(
		ns, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		peer, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	)
	must(t, err)
	hosts := follow(t, ns)
	for _, tt := range []struct{ dst, gw, rule string }{
		{"203.0.113.0/24", "192.0.2.50", authz.RuleDefault},
		{"0.0.0.0/1", "192.0.2.51", authz.RuleNextHop},
		{"128.0.0.0/1", "192.0.2.52", authz.RuleNextHop},
		{"2000::/3", "2001:db8::51", authz.RuleNextHop},
	} {
		addRoute(t, ns, "eth0", tt.dst, tt.gw)
		until(t, hosts, tt.gw, tt.rule)
	}
	// An interface with many neighbours of its own is no bridge of containers.
	addRoute(t, ns, "eth0", "198.51.100.0/24", "")
	until(t, hosts, "198.51.100.9", authz.RuleDefault)
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ns := bpftest.Namespace(t)
	hosts := follow(t, ns)
	until(t, hosts, "127.0.0.1", authz.RuleOwn)
}

// TestFollowAfterABurst: a burst of changes breaks a subscription, and the next reads
// everything again.
func TestFollowAfterABurst(t *testing.T) {
	ns := bpftest.Namespace(t)
	hosts := follow(t, ns)
	until(t, hosts, "127.0.0.1", authz.RuleOwn)
	bpftest.In(t, ns, func() {
		for i := range 1000 {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
			must(t, netns.AddAddresses("lo", netip.PrefixFrom(a, 24)))
		}
	})
	until(t, hosts, "10.3.231.1", authz.RuleOwn)
}

// TestRelevantRoutes: a router's full table may change all day.
func TestRelevantRoutes(t *testing.T) {
	ns, peer := bpftest.Namespace(t), bpftest.Namespace(t)
	err := netns.Join(
		ns, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		peer, "eth0", []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	)
	must(t, err)
	for _, tt := range []struct {
		dst, gw string
		want    bool
	}{
		{"203.0.113.0/24", "192.0.2.50", false},
		{"198.51.100.0/24", "", true},
		{"128.0.0.0/1", "192.0.2.51", true},
	} {
		var c *raw.Conn
		bpftest.Do(t, ns, func() (err error) {
			c, err = raw.Dial(unix.NETLINK_ROUTE, &raw.Config{Groups: unix.RTMGRP_IPV4_ROUTE})
			return err
		})
		addRoute(t, ns, "eth0", tt.dst, tt.gw)
		messages, err := c.Receive()
		must(t, err)
		if got := slices.ContainsFunc(messages, relevant); got != tt.want {
			t.Errorf("%s via %q: relevant %v", tt.dst, tt.gw, got)
		}
		_ = c.Close()
	}
}

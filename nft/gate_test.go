package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

func filter(ns *netns.Namespace) Config {
	return Config{
		Mode: Filter, Ports: []uint16{25, 587}, Netns: ns.FD(),
		Static: []netip.Prefix{netip.PrefixFrom(static4A, 32), netip.PrefixFrom(static6A, 128)},
	}
}

func TestFilter(t *testing.T) {
	w := newWorld(t)
	for _, port := range []uint16{25, 587, 110} {
		serve(t, w.server, port)
	}
	g := openGate(t, filter(w.server))
	rebuild(t, g, minute(member4, member6)...)

	for _, port := range []uint16{25, 587} {
		w.expect(t, "member", member4, server4, port, true)
		w.expect(t, "member", member6, server6, port, true)
		w.expect(t, "static", static4A, server4, port, true)
		w.expect(t, "static", static6A, server6, port, true)
		w.expect(t, "stranger", strange4, server4, port, false)
		w.expect(t, "stranger", strange6, server6, port, false)
	}
	w.expect(t, "stranger", strange4, server4, 110, true)
	w.expect(t, "stranger", strange6, server6, 110, true)
	for _, to := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), server4, server6} {
		if err := dialFrom(w.server, netip.Addr{}, to, 25); err != nil {
			t.Errorf("from the host itself to %s: %v", to, err)
		}
	}

	// What the rules counted is no change to them.
	must(t, g.Check())
	must(t, errors.Join(g.Remove(member4), g.Remove(member6)))
	w.expect(t, "removed member", member4, server4, 25, false)
	w.expect(t, "removed member", member6, server6, 25, false)
	must(t, g.Add(minute(netip.AddrFrom16(strange4.As16()), strange6)...))
	w.expect(t, "new member", strange4, server4, 25, true)
	w.expect(t, "new member", strange6, server6, 25, true)
}

func TestFilterWidensTo64(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	cfg := filter(w.server)
	cfg.IPv6Prefix = 64
	g := openGate(t, cfg)
	rebuild(t, g)
	w.expect(t, "stranger", neighbour6, serverNet6, 25, false)
	must(t, g.Add(minute(memberNet6)...))
	w.expect(t, "member", memberNet6, serverNet6, 25, true)
	w.expect(t, "neighbour", neighbour6, serverNet6, 25, true)
	w.expect(t, "stranger", strange6, server6, 25, false)
	must(t, g.Remove(neighbour6))
	w.expect(t, "removed member", memberNet6, serverNet6, 25, false)
}

func TestElementRunsOut(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	g := openGate(t, filter(w.server))
	rebuild(t, g)
	w.expect(t, "not yet a member", member4, server4, 25, false)
	must(t, g.Add(Element{member4, time.Hour, time.Second}))
	w.expect(t, "member", member4, server4, 25, true)
	// Nobody is left to remove it.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := dialFrom(w.clients, member4, server4, 25)
		if errors.Is(err, unix.ECONNREFUSED) {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("member whose time is over: got %v, want ECONNREFUSED", err)
		}
	}
}

func TestObserveOpensAndClosesNothing(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	g := openGate(t, inMode(Observe, w.server))
	rebuild(t, g, minute(member4, member6)...)
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, true)
	}
	for _, o := range g.built {
		if o.kind != "table" && o.kind != "set" {
			t.Errorf("observe made %s %s", o.kind, o.name)
		}
	}
	must(t, g.Check())

	// The mode is changed by another Gate, which takes the members over.
	held, err := g.Read()
	must(t, err)
	g = openGate(t, filter(w.server))
	rebuild(t, g, held...)
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.passes)
	}
}

// A container's published port: another table changes the destination before
// the input hook, and the packets are forwarded. The relay port can be published too.
func TestDNATIsNoWayAround(t *testing.T) {
	w := newWorld(t)
	container := bpftest.Namespace(t)
	bridge, inside := netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("198.51.100.2/24")
	must(t, netns.Join(w.server, "br0", []netip.Prefix{bridge}, container, "eth0", []netip.Prefix{inside}))
	must(t, container.DefaultRoute(bridge.Addr()))
	bpftest.Sysctl(t, w.server, "1", "ipv4/ip_forward")
	serve(t, container, 2525)

	to := inside.Addr().As4()
	dnat := match{
		&expr.Immediate{Register: unix.NFT_REG_1, Data: to[:]},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, 2525)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG_2},
	}
	published := &hook{"nat", unix.NF_INET_PRE_ROUTING, -100}
	for _, tt := range []struct {
		cfg    Config
		port   uint16
		member bool // passes
	}{
		{filter(w.server), 25, true},
		{inMode(Redirect, w.server), 925, false}, // but by port 25
	} {
		addTable(t, another(t, w.server), "containers", ruleset{
			chains: []chain{{name: "pre", hook: published, rules: []rule{
				{expressions: all(toThisHost(), toPorts([]uint16{tt.port}), sourceFamily4(), dnat)},
			}}},
		})
		g := openGate(t, tt.cfg)
		must(t, g.Delete())
		w.expect(t, "stranger without a gate", strange4, server4, tt.port, true)
		rebuild(t, g, minute(member4)...)
		w.expect(t, "stranger", strange4, server4, tt.port, false)
		w.expect(t, "member", member4, server4, tt.port, tt.member)
		w.expect(t, "static member", static4A, server4, tt.port, true)
	}
}

// sourceFamily4: meta nfproto ipv4
func sourceFamily4() match { return sourceIn4("")[:2] }

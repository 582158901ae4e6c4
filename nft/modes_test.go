package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// inMode is filter in another mode, on port 25 alone.
func inMode(mode Mode, ns *netns.Namespace) Config {
	cfg := filter(ns)
	cfg.Mode, cfg.Ports, cfg.RelayPort, cfg.Mark = mode, []uint16{25}, 925, 0x00100000
	return cfg
}

// who are the members, strangers and static members of the world.
var who = []struct {
	name     string
	from, to netip.Addr
	passes   bool
}{
	{"member", member4, server4, true},
	{"member", member6, server6, true},
	{"static member", static4A, server4, true},
	{"static member", static6A, server6, true},
	{"stranger", strange4, server4, false},
	{"stranger", strange6, server6, false},
}

// expectGreeting says what a client is greeted with, "" for a reset.
func (w world) expectGreeting(t *testing.T, name string, from, to netip.AddrPort, want string) {
	t.Helper()
	got, err := greeting(w.clients, from, to)
	switch {
	case want == "" && !errors.Is(err, unix.ECONNREFUSED):
		t.Errorf("%s %s to %s: got %q, %v, want ECONNREFUSED", name, from, to, got, err)
	case want != "" && (err != nil || got != want):
		t.Errorf("%s %s to %s: got %q, %v, want %q", name, from, to, got, err, want)
	}
}

func TestRedirect(t *testing.T) {
	w := newWorld(t)
	greet(t, w.server, 25, "mx")
	greet(t, w.server, 925, "relay")
	g := openGate(t, inMode(Redirect, w.server))
	rebuild(t, g, minute(member4, member6)...)
	for _, c := range who {
		port25, relay := "mx", ""
		if c.passes {
			port25 = "relay"
		}
		if c.name == "static member" {
			relay = "relay"
		}
		w.expectGreeting(t, c.name, netip.AddrPortFrom(c.from, 0), netip.AddrPortFrom(c.to, 25), port25)
		w.expectGreeting(t, c.name, netip.AddrPortFrom(c.from, 0), netip.AddrPortFrom(c.to, 925), relay)
	}
	if err := dialFrom(w.server, netip.Addr{}, netip.MustParseAddr("127.0.0.1"), 25); err != nil {
		t.Errorf("from the host itself: %v", err)
	}
	must(t, g.Check())
}

// hold connects from a port and keeps the connection.
func (w world) hold(t *testing.T, from, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	bpftest.Do(t, w.clients, func() (err error) {
		d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(from), Control: bpftest.Reuse}
		c, err = d.Dial("tcp", to.String())
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// The translation of a connection outlives it, and would lead whoever has its
// ports to the relay port.
func TestRedirectForgetsFormerMembers(t *testing.T) {
	w := newWorld(t)
	greet(t, w.server, 25, "mx")
	relayed := silent(t, w.server, 925)
	g := openGate(t, inMode(Redirect, w.server))
	rebuild(t, g, minute(member4, member6)...)
	cutter := openCutter(t, w.server)
	for _, c := range who[:2] {
		from, to := netip.AddrPortFrom(c.from, 20000), netip.AddrPortFrom(c.to, 25)
		client := w.hold(t, from, to)
		server := <-relayed
		must(t, g.Remove(c.from))
		other := netip.PrefixFrom(strange4, 32)
		forget := func(want int) {
			t.Helper()
			n, err := cutter.Forget([]uint16{25}, other, netip.PrefixFrom(c.from, c.from.BitLen()))
			if err != nil || n != want {
				t.Errorf("%s: %d entries forgotten, %v, want %d", from, n, err, want)
			}
		}
		// Not asked to cut what is in progress, it does not.
		forget(0)
		bpftest.Send(t, client, server, "NOOP\r\n")

		bpftest.Vanish(t, client)
		bpftest.Vanish(t, server)
		w.expectGreeting(t, "former member, at the guard", from, to, "")
		forget(1)
		w.expectGreeting(t, "former member", from, to, "mx")
	}
}

func TestMark(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	g := openGate(t, inMode(Mark, w.server))
	rebuild(t, g, minute(member4, member6)...)
	// The administrator's own rules: no mark, no connection.
	addTable(t, another(t, w.server), "own", onlyMarked())
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.passes)
	}
	for _, to := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), server4, server6} {
		if err := dialFrom(w.server, netip.Addr{}, to, 25); err != nil {
			t.Errorf("from the host itself to %s: %v", to, err)
		}
	}
}

// A firewall writes marks of its own, as one does that restores a connection's: whatever
// they are, and whichever was there first, members have the mark and strangers have not.
func TestMarkBesideOthers(t *testing.T) {
	for _, all := range []uint32{0, 0x00100000} {
		for _, first := range []bool{true, false} {
			w := newWorld(t)
			serve(t, w.server, 25)
			restore := func() {
				addTable(t, another(t, w.server), "firewall", ruleset{chains: []chain{{
					name: "pre", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, -150}, // NF_IP_PRI_MANGLE
					rules: []rule{{expressions: changeMark(^uint32(0), all)}},
				}}})
			}
			if first {
				restore()
			}
			rebuild(t, openGate(t, inMode(Mark, w.server)), minute(member4, member6)...)
			if !first {
				restore()
			}
			addTable(t, another(t, w.server), "own", onlyMarked())
			for _, c := range who {
				w.expect(t, fmt.Sprintf("%s, with mark %#x before: %v:", c.name, all, first), c.from, c.to, 25, c.passes)
			}
		}
	}
}

// newGateway is a world whose server leads on to a mail server inside.
func newGateway(t *testing.T) (w world, inside *netns.Namespace, mail4, mail6 netip.Prefix) {
	t.Helper()
	w, inside = newWorld(t), bpftest.Namespace(t)
	router4, mail4 := netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("198.51.100.2/24")
	router6, mail6 := netip.MustParsePrefix("2001:db8:1::1/64"), netip.MustParsePrefix("2001:db8:1::2/64")
	must(t, netns.Join(w.server, "lan", []netip.Prefix{router4, router6}, inside, "eth0", []netip.Prefix{mail4, mail6}))
	bpftest.Sysctl(t, w.server, "1", "ipv4/ip_forward", "ipv6/conf/all/forwarding")
	for ns, gateways := range map[*netns.Namespace][]netip.Addr{
		inside: {router4.Addr(), router6.Addr()}, w.clients: {server4, server6},
	} {
		for _, gw := range gateways {
			must(t, ns.DefaultRoute(gw))
		}
	}
	return w, inside, mail4, mail6
}

func TestGateway(t *testing.T) {
	w, inside, mail4, mail6 := newGateway(t)
	serve(t, inside, 25)
	serve(t, inside, 110)
	cfg := inMode(Gateway, w.server)
	cfg.Servers = []netip.Prefix{mail4.Masked(), mail6.Masked()}
	g := openGate(t, cfg)
	rebuild(t, g, minute(member4, member6)...)
	to := func(from netip.Addr) netip.Addr {
		if from.Is4() {
			return mail4.Addr()
		}
		return mail6.Addr()
	}
	for _, c := range who {
		w.reach(t, c.from, to(c.from), 110)
		w.expect(t, c.name, c.from, to(c.from), 25, c.passes)
	}
	cfg.Ports, cfg.Brakes = []uint16{587}, Brakes{Concurrent: 1}
	must(t, g.Reconfigure(cfg, nil))
	accepted := silent(t, inside, 587)
	cutter := openCutter(t, w.server)
	for _, from := range []netip.Addr{member4, member6} {
		for _, first := range []string{"client", "server"} {
			must(t, g.Add(minute(from)...))
			client := w.hold(t, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to(from), 587))
			server := <-accepted
			if _, err := greeting(w.clients, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to(from), 587)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: a second connection: %v, want ECONNREFUSED", from, err)
			}
			must(t, g.Remove(from))
			bpftest.Send(t, client, server, "NOOP\r\n") // nobody cuts it
			_, n, err := cutter.Cut([]uint16{587}, netip.PrefixFrom(from, from.BitLen()))
			if err != nil || n != 1 {
				t.Errorf("%s: cut %d entries, %v, want 1", from, n, err)
			}
			if first == "server" {
				bpftest.Send(t, server, client, "250 OK\r\n")
			}
			_, _ = client.Write([]byte("NOOP\r\n")) // its acknowledgement may have met the gate
			ends(t, client)
			_ = server.SetReadDeadline(time.Now())
			if n, _ := server.Read(make([]byte, 1)); n > 0 {
				t.Errorf("%s: the server heard the client after the cut, the %s being first", from, first)
			}
		}
	}
}

// Whatever the mode is changed to, what is in progress goes on where it is.
func TestConnectionsOutliveModes(t *testing.T) {
	w := newWorld(t)
	direct, relayed := silent(t, w.server, 25), silent(t, w.server, 925)
	g := openGate(t, inMode(Filter, w.server))
	rebuild(t, g, minute(member4, member6)...)
	type connection struct {
		name           string
		client, server net.Conn
	}
	var open []connection
	dial := func(name string, accepted <-chan net.Conn) {
		t.Helper()
		for _, c := range who[:2] {
			client := w.hold(t, netip.AddrPortFrom(c.from, 0), netip.AddrPortFrom(c.to, 25))
			open = append(open, connection{name + " " + c.from.String(), client, <-accepted})
		}
	}
	dial("filtered", direct)
	for _, mode := range []Mode{Redirect, Observe, Mark, Filter, Redirect, Filter} {
		must(t, g.Reconfigure(inMode(mode, w.server), nil))
		if mode == Redirect {
			dial("redirected", relayed)
		}
		for _, c := range open {
			t.Logf("%s: %s", mode, c.name)
			bpftest.Send(t, c.client, c.server, "NOOP\r\n")
			bpftest.Send(t, c.server, c.client, "250 OK\r\n")
		}
	}
}

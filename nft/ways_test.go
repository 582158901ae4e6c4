package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// rewrites is a rule that gives packets another port: that of the source is at 0 in the
// header, of the destination at 2.
func rewrites(at uint32, from, to uint16) rule {
	port := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	return rule{expressions: all(tcp(), match{
		load(expr.PayloadBaseTransportHeader, at, 2),
		equals(port(from)...),
		&expr.Immediate{Register: register, Data: port(to)},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: register, Base: expr.PayloadBaseTransportHeader,
			Offset: at, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: 16,
		},
	})}
}

// What comes to another port can be led to a guarded one when it has passed prerouting,
// by rules at the hook input, and as IPVS does behind all others there.
func TestLedToThePortLate(t *testing.T) {
	for _, tt := range []struct {
		mode   Mode
		port   uint16
		member bool // passes
	}{
		{Filter, 25, true},
		{Redirect, 925, false}, // but by port 25
	} {
		for _, priority := range []int32{0, 99} {
			w := newWorld(t)
			serve(t, w.server, tt.port)
			g := openGate(t, inMode(tt.mode, w.server))
			rebuild(t, g, minute(member4, member6)...)
			addTable(t, another(t, w.server), "ports", ruleset{chains: []chain{
				{name: "in", hook: &hook{"filter", unix.NF_INET_LOCAL_IN, priority}, rules: []rule{rewrites(2, 2525, tt.port)}},
				{name: "out", hook: &hook{"filter", unix.NF_INET_LOCAL_OUT, 0}, rules: []rule{rewrites(0, tt.port, 2525)}},
			}})
			for _, c := range who {
				passes := c.passes
				if c.name == "member" {
					passes = tt.member
				}
				w.expect(t, fmt.Sprintf("%s, %s, priority %d:", tt.mode, c.name, priority), c.from, c.to, 2525, passes)
			}
		}
	}
}

// What a gateway sends as from a client it does not forward, as a proxy that borrows the
// client's address (IP_TRANSPARENT) or IPVS. Its own passes.
func TestGatewaySendsForOthers(t *testing.T) {
	w, inside, mail4, mail6 := newGateway(t)
	serve(t, inside, 25)
	cfg := inMode(Gateway, w.server)
	cfg.Servers = []netip.Prefix{mail4.Masked(), mail6.Masked()}
	rebuild(t, openGate(t, cfg), minute(member4, member6)...)
	takesAnswers(t, w.server, "lan")
	for _, c := range append(who[:len(who):len(who)], struct {
		name     string
		from, to netip.Addr
		passes   bool
	}{"the gateway itself", server4, server4, true}) {
		to := netip.AddrPortFrom(mail4.Addr(), 25)
		if c.from.Is6() {
			to = netip.AddrPortFrom(mail6.Addr(), 25)
		}
		limit := 20 * time.Second
		if !c.passes {
			limit = time.Second // nobody hears the reset
		}
		err := borrow(w.server, c.from, to, limit)
		if (err == nil) != c.passes {
			t.Errorf("%s %s: %v, passes should be %v", c.name, c.from, err, c.passes)
		}
	}
}

// takesAnswers has a host take all that comes in by an interface.
func takesAnswers(t *testing.T, ns *netns.Namespace, iface string) {
	t.Helper()
	const table = 100
	bpftest.Do(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for family, length := range map[int]int{unix.AF_INET: 4, unix.AF_INET6: 16} {
			rule := netlink.NewRule()
			rule.IifName, rule.Table, rule.Family = iface, table, family
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
			all := &net.IPNet{IP: make(net.IP, length), Mask: make(net.IPMask, length)}
			route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: table, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Dst: all}
			if err := netlink.RouteAdd(route); err != nil {
				return err
			}
		}
		return nil
	})
}

// borrow connects with another's address and reads the greeting.
func borrow(ns *netns.Namespace, from netip.Addr, to netip.AddrPort, limit time.Duration) error {
	return ns.Do(func() error {
		d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			level, option := unix.SOL_IP, unix.IP_TRANSPARENT
			if from.Is6() {
				level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			if failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); failed != nil {
				return failed
			}
			return err
		}
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(limit))
		_, err = c.Read(make([]byte, 1))
		return err
	})
}

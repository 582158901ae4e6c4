package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

const tapInterfaces = `[watch]
tap = "afpacket"
interfaces = ["to-client4", "to-client6", "to-stranger"]
`

// The whole way over AF_PACKET: packets, dialogue, socket tables, gate. The
// clients stay connected: a session that is over before its packets are read
// can no longer be confirmed.
func TestTappedInterfacesOpenForALogin(t *testing.T) {
	w := newWorld(t, 30*time.Second, tapInterfaces)
	// By the loopback device, which is not named: that is no session which began unseen.
	_, err := talkTo(&lab.Host{NS: w.Server}, netip.AddrPortFrom(lab.Server4, lab.IMAPPort), "a1 LOGIN alice "+lab.Password)
	must(t, err)
	w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
	w.stay(t, w.Client6, netip.AddrPortFrom(lab.Server6, lab.IMAPPort))
	settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	settles(t, 2*time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "status", "afpacket")())
	if s := w.totals(t); s.Logins != 2 || s.Tainted != 0 {
		t.Errorf("status tells %+v", s)
	}
}

// stay logs in and stays connected.
func (w *world) stay(t *testing.T, h *lab.Host, to netip.AddrPort) {
	t.Helper()
	conn, err := h.Dial(t.Context(), to)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n')
	must(t, err)
	_, err = io.WriteString(conn, "a1 LOGIN alice "+lab.Password+"\r\n")
	must(t, err)
	answer, err := lines.ReadString('\n')
	must(t, err)
	if !strings.Contains(answer, "OK") {
		must(t, fmt.Errorf("the server answered %q", answer))
	}
}

// TestStackedInterfaces: a segment that passes several interfaces, one above the other,
// is one segment.
func TestStackedInterfaces(t *testing.T) {
	for _, above := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "above"}},
		&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "above"}, Mode: netlink.MACVLAN_MODE_BRIDGE},
	} {
		for _, tap := range []string{"afpacket", "tcx"} {
			t.Run(above.Type()+", "+tap, func(t *testing.T) {
				n := labtest.Network(t)
				bpftest.Do(t, n.Server, func() error { return stack(above, "to-client4") })
				// What is on a bridge of virtual ports is never granted; what is behind it is.
				bpftest.Do(t, n.Client4.NS, func() error {
					err := netns.AddAddresses("eth0", netip.MustParsePrefix("10.1.2.10/24"))
					return errors.Join(err, netlink.RouteReplace(&netlink.Route{Gw: net.IPv4(10, 1, 2, 1)}))
				})
				n.Client4.From = lab.Client4
				w := populate(t, n, n.Server, lab.Options{
					Lifetime: time.Minute, Config: fmt.Sprintf("[watch]\ntap = %q\ninterfaces = [\"above\"]\n", tap),
				})
				w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
				settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
				if s := w.totals(t); s.Logins != 1 || s.Tainted != 0 {
					t.Errorf("status tells %+v", s)
				}
			})
		}
	}
}

// stack puts an interface above another, by which the client is reached then.
func stack(above netlink.Link, name string) error {
	below, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	old, err := netlink.AddrList(below, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for i := range old {
		if err := netlink.AddrDel(below, &old[i]); err != nil {
			return err
		}
	}
	attrs := above.Attrs()
	attrs.Index, attrs.ParentIndex = 0, below.Attrs().Index
	if above.Type() == "bridge" {
		attrs.ParentIndex = 0
	}
	if err := netlink.LinkAdd(above); err != nil {
		return err
	}
	if above.Type() == "bridge" {
		if err := netlink.LinkSetMaster(below, above); err != nil {
			return err
		}
	}
	if err := errors.Join(netlink.LinkSetUp(above), netns.AddAddresses("above", netip.MustParsePrefix("10.1.2.1/24"))); err != nil {
		return err
	}
	to := netip.PrefixFrom(lab.Client4, 32)
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: attrs.Index, Gw: net.IPv4(10, 1, 2, 10), Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)},
	})
}

// TestAsymmetricRoutes: what a client says comes in by another interface than the one by
// which the answers leave.
func TestAsymmetricRoutes(t *testing.T) {
	for _, tap := range []string{"afpacket", "tcx"} {
		t.Run(tap, func(t *testing.T) {
			n := labtest.Network(t)
			must(t, netns.Join(n.Server, "second", []netip.Prefix{netip.MustParsePrefix("10.1.2.1/24")},
				n.Client4.NS, "second", []netip.Prefix{netip.MustParsePrefix("10.1.2.10/24")}))
			n.Client4.From = lab.Client4
			bpftest.Do(t, n.Client4.NS, func() error {
				return netlink.RouteReplace(&netlink.Route{Gw: net.IPv4(10, 1, 2, 1)})
			})
			w := populate(t, n, n.Server, lab.Options{
				Lifetime: time.Minute, Config: fmt.Sprintf("[watch]\ntap = %q\ninterfaces = [\"to-client4\"]\n", tap),
			})
			w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
			settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
		})
	}
}

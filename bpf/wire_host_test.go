package bpf_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// A neighbour shares the host's interface eth0: it returns how a frame leaves it towards
// the client, and to which station it has to be.
type neighbour func(t *testing.T, p *pair) (station net.HardwareAddr, send func(frame []byte))

// routed is a container behind the host, which forwards IPv6.
func routed(t *testing.T, p *pair) (net.HardwareAddr, func([]byte)) {
	container := bpftest.Namespace(t)
	err := netns.Join(p.server, "docker0", []netip.Prefix{netip.MustParsePrefix("2001:db8:d0::1/64")},
		container, "eth0", []netip.Prefix{netip.MustParsePrefix("2001:db8:d0::2/64")})
	must(t, err)
	bpftest.Sysctl(t, p.server, "1", "ipv6/conf/all/forwarding")
	return bpftest.Interface(t, p.server, "docker0").HardwareAddr, func(frame []byte) { bpftest.Inject(t, container, "eth0", frame) }
}

// macvlan is a container with an interface on the host's.
func macvlan(t *testing.T, p *pair) (net.HardwareAddr, func([]byte)) {
	container := bpftest.Namespace(t)
	bpftest.Do(t, p.server, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
			Name: "mv0", ParentIndex: eth0.Attrs().Index, Namespace: netlink.NsFd(container.FD()),
		}})
	})
	bpftest.Do(t, container, func() error { return netns.AddAddresses("mv0") })
	return bpftest.Interface(t, p.client, "lan").HardwareAddr, func(frame []byte) { bpftest.Inject(t, container, "mv0", frame) }
}

// guest is a virtual machine on a bridge with the host's interface.
func guest(t *testing.T, p *pair) (net.HardwareAddr, func([]byte)) {
	tap := -1
	bpftest.In(t, p.server, func() {
		var err error
		tap, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		must(t, err)
		ifr, err := unix.NewIfreq("tap0")
		must(t, err)
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		must(t, unix.IoctlIfreq(tap, unix.TUNSETIFF, ifr))
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		must(t, netlink.LinkAdd(bridge))
		for _, name := range []string{"eth0", "tap0"} {
			port, err := netlink.LinkByName(name)
			must(t, err)
			must(t, errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port)))
		}
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		addr, err := netlink.ParseAddr("2001:db8:25::25/64")
		must(t, err)
		must(t, errors.Join(netlink.LinkSetHardwareAddr(bridge, eth0.Attrs().HardwareAddr), netlink.AddrDel(eth0, addr), netns.AddAddresses("br0", netip.MustParsePrefix("2001:db8:25::25/64"))))
	})
	t.Cleanup(func() { _ = unix.Close(tap) })
	return bpftest.Interface(t, p.client, "lan").HardwareAddr, func(frame []byte) {
		_, err := unix.Write(tap, frame)
		must(t, err)
	}
}

// tenant shares the host's namespace and makes packets itself.
func tenant(t *testing.T, p *pair) (net.HardwareAddr, func([]byte)) {
	return bpftest.Interface(t, p.client, "lan").HardwareAddr, func(frame []byte) { bpftest.Inject(t, p.server, "eth0", frame) }
}

// TestWireForged has a neighbour send what the host's mail server would say, to a
// client that it is in league with. That the connection is in the host's socket
// tables proves nothing then.
func TestWireForged(t *testing.T) {
	for _, test := range []struct {
		name string
		by   neighbour
	}{
		{"routed container", routed},
		{"container with a macvlan", macvlan},
		{"guest on a bridge", guest},
		{"container in the host's namespace", tenant},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t)
			station, send := test.by(t, p)
			w := p.tapHost(t)
			client, server := p.dial(t, "[2001:db8:25::25]:61143")
			bpftest.Send(t, server, client, "+OK ready\r\n")
			bpftest.Send(t, client, server, "USER alice\r\nPASS guess\r\n")
			got := collect(t, w, func(s seen) bool { return strings.HasPrefix(s.payload, "USER") })
			from, to := server.LocalAddr().(*net.TCPAddr).AddrPort(), client.LocalAddr().(*net.TCPAddr).AddrPort()
			next := got[0].ServerISN + uint32(len("+OK ready\r\n"))
			acked := got[0].ClientISN + uint32(len("USER alice\r\nPASS guess\r\n"))
			const forgery = "+OK\r\n+OK forged\r\n"
			send(bpftest.Segment(t, station, from, to, layers.TCP{Seq: next, Ack: acked, PSH: true, ACK: true}, forgery))
			read := make([]byte, len(forgery))
			patient(t, client)
			if _, err := io.ReadFull(client, read); err != nil || string(read) != forgery {
				t.Fatalf("the client read %q, %v: the test proves nothing", read, err)
			}
			got = append(got, rest(t, w)...)
			c, err := w.Counters()
			must(t, err)
			const want = "S:+OK ready\r\nC:USER alice\r\nPASS guess\r\n"
			if text := dialogueOf(got); text != want || c.Forged != 1 {
				t.Errorf("dialogue is %q, and %d segments are refused", text, c.Forged)
			}
		})
	}
}

// tapHost taps the server's end of the cable as the host's own interface.
func (p *pair) tapHost(t *testing.T) *bpf.Wire {
	t.Helper()
	w, err := bpf.LoadWire(bpf.WireOptions{
		Ports: []uint16{port}, Servers: []netip.Prefix{netip.MustParsePrefix("::/0")},
	})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, w) })
	w.HurryUp()
	eth0 := bpftest.Interface(t, p.server, "eth0")
	bpftest.Do(t, p.server, func() error { return w.Attach(eth0.Index) })
	return w
}

// TestWireOpens: a user's socket that connects from the port of a mail server answers a
// client's SYN as a listener does.
func TestWireOpens(t *testing.T) {
	bpftest.RequireLinux(t, 6, 6, "tcx")
	host, outside := bpftest.Namespace(t), bpftest.Namespace(t)
	at := netip.MustParseAddrPort("192.0.2.1:61143")
	must(t, netns.Join(host, "lan", []netip.Prefix{netip.PrefixFrom(at.Addr(), 24)}, outside, "wan", nil))
	w, err := bpf.LoadWire(bpf.WireOptions{Ports: []uint16{port}, Servers: bpftest.Prefixes("::/0")})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, w) })
	lan := bpftest.Interface(t, host, "lan")
	bpftest.As(t, host, nobody, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) }) // nothing is lost
		err = errors.Join(w.Attach(lan.Index), unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: port}))
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: lanClient.Addr().As4(), Port: int(lanClient.Port())})
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	})
	c := halfTCP(t, host, outside, lanClient, at)
	must(t, c.send(ack, c.first, open, ""))
	if got := rest(t, w); len(got) != 1 || got[0].Kind != bpf.Opened || got[0].Reason != bpf.Opens {
		t.Errorf("records are %+v, want one that is not followed because %q", got, bpf.Opens)
	}
}

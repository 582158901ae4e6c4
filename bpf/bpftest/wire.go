package bpftest

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
)

// Sysctl gives settings of ns, by their names below /proc/sys/net, a value.
func Sysctl(t testing.TB, ns *netns.Namespace, value string, names ...string) {
	t.Helper()
	for _, name := range names {
		Do(t, ns, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	}
}

// Interface is the one that has a name inside ns.
func Interface(t testing.TB, ns *netns.Namespace, name string) (i *net.Interface) {
	t.Helper()
	Do(t, ns, func() (err error) { i, err = net.InterfaceByName(name); return err })
	return i
}

// Station makes ns know who is behind an interface of it, for good.
func Station(t testing.TB, ns *netns.Namespace, name string, addr netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	n := &netlink.Neigh{
		LinkIndex: Interface(t, ns, name).Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
	}
	Do(t, ns, func() error { return netlink.NeighSet(n) })
}

// Wire is a socket by which an interface sends whole frames, and takes those of IPv4.
type Wire struct{ FD, index int }

// OpenWire is one on an interface of ns, until the test ends. Reading waits for a frame.
func OpenWire(t testing.TB, ns *netns.Namespace, name string) (w Wire) {
	t.Helper()
	const ip = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // in network order
	w.index = Interface(t, ns, name).Index
	Do(t, ns, func() (err error) {
		if w.FD, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(w.FD) }) // nothing is lost
		if err := unix.SetsockoptTimeval(w.FD, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
			return err
		}
		return unix.Bind(w.FD, &unix.SockaddrLinklayer{Ifindex: w.index, Protocol: ip})
	})
	return w
}

// Send sends a frame, of whichever protocol.
func (w Wire) Send(frame []byte) error {
	return unix.Sendto(w.FD, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
}

// Inject sends frames by an interface of ns.
func Inject(t testing.TB, ns *netns.Namespace, name string, frames ...[]byte) {
	t.Helper()
	w := OpenWire(t, ns, name)
	for _, f := range frames {
		Must(t, w.Send(f))
	}
}

// Segment is a frame that brings a segment of TCP to a station.
func Segment(t testing.TB, station net.HardwareAddr, from, to netip.AddrPort, tcp layers.TCP, payload string) []byte {
	t.Helper()
	tcp.SrcPort, tcp.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(to.Port())
	link := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: station, EthernetType: layers.EthernetTypeIPv4}
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	if from.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		Must(t, tcp.SetNetworkLayerForChecksum(ip))
		return Frame(t, link, ip, &tcp, gopacket.Payload(payload))
	}
	link.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
	Must(t, tcp.SetNetworkLayerForChecksum(ip))
	return Frame(t, link, ip, &tcp, gopacket.Payload(payload))
}

// Frame is one of these layers, with right lengths and checksums.
func Frame(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	Must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...))
	return buf.Bytes()
}

package capture

import (
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// TestAFPacketFilter: only what the decoder needs leaves the kernel.
func TestAFPacketFilter(t *testing.T) {
	other := set(tcpSegment("other"), 2, 0, 80)
	n := newTapped(t)
	for _, ns := range []*netns.Namespace{n.server, n.client} {
		// The kernel's own multicast reports have extension headers too.
		bpftest.Sysctl(t, ns, "1", "ipv6/conf/all/disable_ipv6")
	}
	for _, tt := range []struct {
		name   string
		kind   uint16
		packet []byte
		want   uint64
	}{
		{"IPv4", unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("x")), 1},
		{"IPv4 options", unix.ETH_P_IP, cat(set(ipv4Packet(protoTCP, tcpSegment("")), 0, 0x46)[:20], make([]byte, 4), tcpSegment("")), 1},
		{"first fragment", unix.ETH_P_IP, ipv4Fragment(protoTCP, 1, 0x2000, tcpSegment("abcd")), 1},
		{"last fragment", unix.ETH_P_IP, ipv4Fragment(protoTCP, 1, 3, other), 1},
		{"IPv6", unix.ETH_P_IPV6, ipv6Packet(protoTCP, tcpSegment("x")), 1},
		{"hop-by-hop", unix.ETH_P_IPV6, ipv6Packet(protoHopByHop, cat([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcpSegment(""))), 1},
		{"destination options", unix.ETH_P_IPV6, ipv6Packet(protoDestination, cat([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcpSegment(""))), 1},
		{"routing header", unix.ETH_P_IPV6, ipv6Packet(protoRouting, make([]byte, 32)), 1},
		{"authentication header", unix.ETH_P_IPV6, ipv6Packet(protoAH, make([]byte, 32)), 1},
		{"IPv6 fragment", unix.ETH_P_IPV6, ipv6Fragment(17, 1, 8, true, make([]byte, 8)), 1},
		{"IPv4, other port", unix.ETH_P_IP, ipv4Packet(protoTCP, other), 0},
		{"IPv4, UDP", unix.ETH_P_IP, ipv4Packet(17, tcpSegment("x")), 0},
		{"IPv4, UDP fragment", unix.ETH_P_IP, ipv4Fragment(17, 1, 0x2000, tcpSegment("abcd")), 0},
		{"IPv6, other port", unix.ETH_P_IPV6, ipv6Packet(protoTCP, other), 0},
		{"IPv6, UDP", unix.ETH_P_IPV6, ipv6Packet(17, tcpSegment("x")), 0},
		{"ARP", unix.ETH_P_ARP, ipv4Packet(protoTCP, tcpSegment("x")), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.settle(t)
			before := n.tap.Stats().Packets
			n.inject(t, tt.kind, tt.packet)
			n.settle(t)
			// The mark itself counts as one.
			if got := n.tap.Stats().Packets - before - 1; got != tt.want {
				t.Errorf("got %d packets, want %d", got, tt.want)
			}
		})
	}
}

// settle reads everything up to a mark that it sends.
func (n *tapped) settle(t *testing.T) {
	t.Helper()
	n.inject(t, unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("mark")))
	n.until(t, hasPayload("mark"))
}

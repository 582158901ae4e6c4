package capture

import (
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// reference decodes an Ethernet frame with gopacket; nil if it finds no whole
// TCP segment or anything to complain of.
func reference(frame []byte) (*layers.TCP, gopacket.Packet) {
	packet := gopacket.NewPacket(frame, layers.LinkTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if packet.ErrorLayer() != nil || packet.Metadata().Truncated {
		return nil, nil
	}
	tcp, _ := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return tcp, packet
}

// randomFrame is a frame of one of the kinds that both decoders know.
func randomFrame(rng *rand.Rand) []byte {
	payload := make([]byte, rng.IntN(60))
	for i := range payload {
		payload[i] = byte(rng.Uint32())
	}
	segment := tcpSegment(string(payload), make([]byte, 4*rng.IntN(5))...)
	kind, packet := uint16(etherIPv4), ipv4Packet(protoTCP, segment)
	switch rng.IntN(4) {
	case 0:
		kind, packet = etherIPv6, ipv6Packet(protoTCP, segment)
	case 1:
		kind, packet = etherIPv6, ipv6Packet(protoHopByHop, cat([]byte{protoDestination, 0, 1, 4, 0, 0, 0, 0},
			[]byte{protoTCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, segment))
	}
	if rng.IntN(3) == 0 {
		kind, packet = etherVLAN, cat(u16(42), u16(kind), packet)
	}
	return ethernet(kind, packet)
}

// ethernetSize is the length of the link layer with its tag.
func ethernetSize(packet gopacket.Packet) int {
	if packet.Layer(layers.LayerTypeDot1Q) != nil {
		return ethernetLen + 4
	}
	return ethernetLen
}

// TestAgainstGopacket: whatever gopacket reads as a sound segment of a watched
// port, in whole or mutated frames, is read here with the same fields.
func TestAgainstGopacket(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	compared := 0
	for round := range 20000 {
		frame := randomFrame(rng)
		for range rng.IntN(4) {
			frame[rng.IntN(len(frame))] = byte(rng.Uint32())
		}
		tcp, packet := reference(frame)
		if tcp == nil || packet.Layer(layers.LayerTypeIPv6Fragment) != nil || packet.Layer(layers.LayerTypeIPv6Routing) != nil {
			continue
		}
		// gopacket looks at no version and, behind a hop-by-hop header, at no
		// length; fragments and super-frames have tests of their own.
		if ip, ok := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok && (ip.Version != 4 || ip.Length == 0 || ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0) {
			continue
		}
		if ip, ok := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6); ok &&
			(ip.Version != 6 || ip.Length == 0 || ip.HopByHop != nil && int(ip.Length) != len(frame)-ethernetSize(packet)-40) {
			continue
		}
		d := newTestDecoder()
		watched := d.ports.Has(uint16(tcp.SrcPort)) || d.ports.Has(uint16(tcp.DstPort))
		events := decodeAll(d, LinkEthernet, frame, len(frame), start)
		if !watched {
			if len(events) != 0 {
				t.Fatalf("round %d: got %+v for other ports", round, events)
			}
			continue
		}
		if len(events) != 1 || events[0].Kind != Packet {
			t.Fatalf("round %d: got %+v, want a segment of %x", round, events, frame)
		}
		compared++
		s := events[0].Segment
		if s.Src.Port() != uint16(tcp.SrcPort) || s.Dst.Port() != uint16(tcp.DstPort) || s.Seq != tcp.Seq || s.Ack != tcp.Ack ||
			string(s.Payload) != string(tcp.LayerPayload()) {
			t.Fatalf("round %d: got %+v, want %+v", round, s, tcp)
		}
		flags := map[Flags]bool{FIN: tcp.FIN, SYN: tcp.SYN, RST: tcp.RST, PSH: tcp.PSH, ACK: tcp.ACK, URG: tcp.URG}
		for flag, set := range flags {
			if (s.Flags&flag != 0) != set {
				t.Fatalf("round %d: flags %b, gopacket %+v", round, s.Flags, tcp)
			}
		}
		if ip := packet.NetworkLayer().NetworkFlow(); s.Src.Addr().Unmap().String() != ip.Src().String() || s.Dst.Addr().String() != ip.Dst().String() {
			t.Fatalf("round %d: got %v > %v, want %v", round, s.Src, s.Dst, ip)
		}
	}
	if compared < 10000 {
		t.Errorf("compared only %d frames", compared)
	}
}

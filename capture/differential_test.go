package capture

import (
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// reference decodes a frame with gopacket; false if it finds no whole TCP
// segment, anything to complain of, or one of the cases that it reads in a way
// of its own.
func reference(link linkType, frame []byte) (gopacket.Packet, bool) {
	packet := gopacket.NewPacket(frame, layers.LinkType(link), gopacket.DecodeOptions{NoCopy: true})
	if packet.ErrorLayer() != nil || packet.Metadata().Truncated || packet.TransportLayer() == nil {
		return nil, false
	}
	// It looks at no version and, behind a hop-by-hop header, at no length;
	// fragments and super-frames have tests of their own.
	switch ip := packet.NetworkLayer().(type) {
	case *layers.IPv4:
		if ip.Version != 4 || ip.Length == 0 || ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0 {
			return nil, false
		}
	case *layers.IPv6:
		start := cap(frame) - cap(ip.Contents) // they share their memory
		if ip.Version != 6 || ip.Length == 0 || ip.HopByHop != nil && start+ipv6HeaderLen+int(ip.Length) != len(frame) {
			return nil, false
		}
	}
	if packet.Layer(layers.LayerTypeIPv6Fragment) != nil || packet.Layer(layers.LayerTypeIPv6Routing) != nil {
		return nil, false
	}
	return packet, packet.Layer(layers.LayerTypeTCP) != nil
}

// compare decodes a frame twice. It returns whether there was a segment.
func compare(t *testing.T, link linkType, frame []byte) bool {
	t.Helper()
	packet, ok := reference(link, frame)
	if !ok {
		return false
	}
	tcp := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	d := newTestDecoder()
	events := decodeAll(d, link, frame, len(frame), start)
	if !d.ports.Has(uint16(tcp.SrcPort)) && !d.ports.Has(uint16(tcp.DstPort)) {
		if len(events) != 0 {
			t.Fatalf("got %+v for other ports of %x", events, frame)
		}
		return false
	}
	if len(events) != 1 || events[0].Kind != Packet {
		t.Fatalf("got %+v, want a segment of %x", events, frame)
	}
	s := events[0].Segment
	if s.Src.Port() != uint16(tcp.SrcPort) || s.Dst.Port() != uint16(tcp.DstPort) || s.Seq != tcp.Seq || s.Ack != tcp.Ack ||
		string(s.Payload) != string(tcp.LayerPayload()) {
		t.Fatalf("got %+v, want %+v of %x", s, tcp, frame)
	}
	flags := map[Flags]bool{FIN: tcp.FIN, SYN: tcp.SYN, RST: tcp.RST, PSH: tcp.PSH, ACK: tcp.ACK, URG: tcp.URG}
	for flag, set := range flags {
		if (s.Flags&flag != 0) != set {
			t.Fatalf("got flags %b, want %+v of %x", s.Flags, tcp, frame)
		}
	}
	if ip := packet.NetworkLayer().NetworkFlow(); s.Src.Addr().String() != ip.Src().String() || s.Dst.Addr().String() != ip.Dst().String() {
		t.Fatalf("got %v > %v, want %v of %x", s.Src, s.Dst, ip, frame)
	}
	return true
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

// TestAgainstGopacket: whatever gopacket reads as a sound segment of a watched
// port, in whole or mutated frames, is read here with the same fields.
func TestAgainstGopacket(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	compared := 0
	for range 20000 {
		frame := randomFrame(rng)
		for range rng.IntN(4) {
			frame[rng.IntN(len(frame))] = byte(rng.Uint32())
		}
		if compare(t, linkEthernet, frame) {
			compared++
		}
	}
	if compared < 10000 {
		t.Errorf("compared only %d frames", compared)
	}
}

// TestCapturesAgainstGopacket does the same with frames of real servers.
func TestCapturesAgainstGopacket(t *testing.T) {
	names, err := filepath.Glob("../testdata/corpus/*.pcap*")
	if err != nil || len(names) == 0 {
		t.Fatalf("find captures: %v, %v", names, err)
	}
	packets, compared := 0, 0
	for _, name := range names {
		f, err := OpenFile(name, asIs, newTestDecoder())
		must(t, err)
		var r record
		for err = f.format.next(&r); err == nil; err = f.format.next(&r) {
			packets++
			if len(r.data) == r.wireLen && r.link < 256 && compare(t, r.link, r.data) {
				compared++
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, f.Close())
	}
	if compared*10 < packets*8 {
		t.Errorf("compared only %d of %d packets", compared, packets)
	}
	t.Logf("compared %d of %d packets in %d captures", compared, packets, len(names))
}

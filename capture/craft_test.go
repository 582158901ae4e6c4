package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

var (
	client4 = netip.MustParseAddr("192.0.2.7")
	server4 = netip.MustParseAddr("198.51.100.2")
	client6 = netip.MustParseAddr("2001:db8::7")
	server6 = netip.MustParseAddr("2001:db8:1::2")

	clientMAC = [6]byte{2, 0, 0, 0, 0, 7}
	serverMAC = [6]byte{2, 0, 0, 0, 0, 2}

	start = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
)

const (
	clientPort = 51234
	serverPort = 143
)

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// set returns a copy of b with the bytes at offset replaced.
func set(b []byte, offset int, v ...byte) []byte {
	b = slices.Clone(b)
	copy(b[offset:], v)
	return b
}

// tcpSegment is a segment of the client, with options padded to four bytes.
func tcpSegment(payload string, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, optionNoOperation)
	}
	return cat(u16(clientPort), u16(serverPort), u32(1000), u32(2000),
		[]byte{byte(5+len(options)/4) << 4, byte(PSH | ACK)}, u16(512), u16(0), u16(0),
		options, []byte(payload))
}

// reply is a segment of the server.
func reply(payload string) []byte {
	return cat(u16(serverPort), u16(clientPort), u32(2000), u32(1000), []byte{5 << 4, byte(PSH | ACK)}, make([]byte, 6), []byte(payload))
}

func ipv4Packet(proto byte, body []byte) []byte {
	return ipv4Fragment(proto, 0, 0, body)
}

// ipv4Fragment has the flags and offset field as given, in units of 8 bytes.
func ipv4Fragment(proto byte, id, field uint16, body []byte) []byte {
	src, dst := client4.As4(), server4.As4()
	return cat([]byte{0x45, 0}, u16(uint16(20+len(body))), u16(id), u16(field), []byte{64, proto}, u16(0), src[:], dst[:], body)
}

func ipv4Reply(body []byte) []byte {
	packet := ipv4Packet(protoTCP, body)
	src, dst := server4.As4(), client4.As4()
	return set(set(packet, 12, src[:]...), 16, dst[:]...)
}

func ipv6Packet(next byte, body []byte) []byte {
	src, dst := client6.As16(), server6.As16()
	return cat([]byte{0x60, 0, 0, 0}, u16(uint16(len(body))), []byte{next, 64}, src[:], dst[:], body)
}

func ipv6Fragment(next byte, id uint32, offset int, more bool, body []byte) []byte {
	field := uint16(offset)
	if more {
		field |= 1
	}
	return ipv6Packet(protoFragment, cat([]byte{next, 0}, u16(field), u32(id), body))
}

func ethernet(kind uint16, body []byte) []byte {
	return cat(serverMAC[:], clientMAC[:], u16(kind), body)
}

// want is the segment of tcpSegment(payload) over IPv4 without a link layer.
func want(payload string) Segment {
	return Segment{
		Src: netip.AddrPortFrom(client4, clientPort), Dst: netip.AddrPortFrom(server4, serverPort),
		Seq: 1000, Ack: 2000, Flags: PSH | ACK, Payload: []byte(payload),
	}
}

func want6(payload string) Segment {
	s := want(payload)
	s.Src, s.Dst = netip.AddrPortFrom(client6, clientPort), netip.AddrPortFrom(server6, serverPort)
	return s
}

// with returns a changed copy of a segment.
func with(s Segment, change func(*Segment)) Segment {
	change(&s)
	return s
}

// macs is the link of frames made by ethernet.
func macs(vlan ...uint16) func(*Segment) {
	return func(s *Segment) {
		s.Link = Link{HasMAC: true, Src: clientMAC, Dst: serverMAC}
		copy(s.Link.VLAN[:], vlan)
	}
}

func newTestDecoder() *Decoder { return NewDecoder(NewPortSet(110, serverPort, 993, 995)) }

// decodeAll returns every Event of one frame, with payloads of their own.
func decodeAll(d *Decoder, link linkType, frame []byte, wireLen int, t time.Time) []Event {
	var (
		events []Event
		ev     Event
	)
	for ok := d.frame(&packet{time: t}, link, frame, wireLen, &ev); ok; ok = d.more(&ev) {
		ev.Segment.Payload = slices.Clone(ev.Segment.Payload)
		events = append(events, ev)
	}
	return events
}

package capture

import (
	"net/netip"
	"time"
)

// PassOver lets d pass over the packets of connections in the set, but for those
// with SYN or RST.
func (d *Decoder) PassOver(done *DoneSet) { d.done = done }

// sight is what a look shows of a record.
type sight uint8

const (
	// unclear: frame has to decode it.
	unclear sight = iota
	// silent: it has nothing to say.
	silent
	// segment: it is a plain segment.
	segment
	// beginning: it is one of a connection that is done, and may begin another:
	// whether those behind it are passed over is to be seen.
	beginning
)

// Where a TCP header begins in a plain frame.
const (
	ipv4Start = ethernetLen + ipv4HeaderLen
	ipv6Start = ethernetLen + ipv6HeaderLen
)

// glimpse says where in its frame a plain segment lies.
type glimpse struct {
	hash uint64
	// tcp is where its header begins, payload where that ends, and end where
	// the payload does. missing bytes of it were not captured.
	tcp, payload, end, missing int
	flags                      Flags
}

// look decodes a frame that is plain Ethernet with plain IP and TCP headers, as
// almost all of a capture are, with as few looks as it can: most packets belong
// to other ports, or to a connection that is done. What is not plain is unclear;
// frame would come to the same result for the rest.
func (d *Decoder) look(frame []byte, g *glimpse) sight {
	if len(frame) < ipv4Start+tcpHeaderLen {
		return unclear
	}
	// Arrays: their places are known to the compiler, which then asks once.
	switch h := (*[ipv4Start + tcpHeaderLen]byte)(frame); be16(h[12:]) {
	case etherIPv4:
		const plainHeader, fragmented = 0x45, 0x3fff
		if h[14] != plainHeader || be16(h[20:])&fragmented != 0 {
			return unclear
		}
		from, to := be16(h[ipv4Start:]), be16(h[ipv4Start+2:])
		if h[23] != protoTCP || !d.ports.either(to, from) {
			return silent
		}
		g.hash = d.hasher.join(d.hasher.end4(h[26:30], from), d.hasher.end4(h[30:34], to))
		g.tcp, g.flags = ipv4Start, flags(h[ipv4Start:])
		return g.cut(len(frame), int(be16(h[16:]))-ipv4HeaderLen, h[ipv4Start+12])
	case etherIPv6:
		if len(frame) < ipv6Start+tcpHeaderLen {
			return unclear
		}
		h := (*[ipv6Start + tcpHeaderLen]byte)(frame)
		if h[14]>>4 != 6 || h[20] != protoTCP {
			return unclear
		}
		from, to := be16(h[ipv6Start:]), be16(h[ipv6Start+2:])
		if !d.ports.either(to, from) {
			return silent
		}
		g.hash = d.hasher.join(d.hasher.end(h[22:38], from), d.hasher.end(h[38:54], to))
		g.tcp, g.flags = ipv6Start, flags(h[ipv6Start:])
		return g.cut(len(frame), int(be16(h[18:])), h[ipv6Start+12])
	}
	return unclear
}

// cut says where the TCP header ends and its payload, which are total bytes long
// by the IP header, in a frame of length bytes. offset is the octet of the data
// offset (RFC 9293 §3.1).
func (g *glimpse) cut(length, total int, offset byte) sight {
	header := int(offset>>4) * 4
	g.payload, g.end = g.tcp+header, min(g.tcp+total, length)
	g.missing = g.tcp + total - g.end
	if header < tcpHeaderLen || g.payload > g.end || total < tcpHeaderLen {
		return unclear
	}
	return segment
}

// flags are the control bits of a TCP header (RFC 9293 §3.1).
func flags(tcp []byte) Flags { return Flags(tcp[13] & 0x3f) }

// glance looks at a record and fills in the Event if it is a segment that is
// not passed over.
func (d *Decoder) glance(r *record, ev *Event) sight {
	if r.link != linkEthernet || d.waiting() {
		return unclear
	}
	var g glimpse
	if s := d.look(r.data, &g); s != segment {
		return s
	}
	passage := d.done.passage(g.hash, g.flags, r.second)
	if passage == passed || passage == passedHeld && !d.compares(r.data, &g) {
		return silent
	}
	d.show(r, &g, ev)
	if passage == shownStill {
		return beginning
	}
	return segment
}

// compares reports whether a segment of a connection that is held has bytes that are to be
// compared.
func (d *Decoder) compares(frame []byte, g *glimpse) bool {
	length := g.end + g.missing - g.payload
	if length == 0 && g.flags&FIN == 0 {
		return false // as half of them are
	}
	tcp := (*[8]byte)(frame[g.tcp:])
	return d.done.compares(g.hash, d.ports.Has(be16(tcp[2:])), be32(tcp[4:]), length, g.flags)
}

// waiting reports whether fragments wait for others: then no packet is plain.
func (d *Decoder) waiting() bool { return d.frags.pending.Len() != 0 }

// show fills in the Event of a segment.
func (d *Decoder) show(r *record, g *glimpse, ev *Event) {
	if ev.Kind != Packet {
		*ev = Event{} // one of a segment has no more than these fields
	}
	frame := r.data[:g.end]
	h, tcp := (*[ipv4Start]byte)(frame), (*[tcpHeaderLen]byte)(frame[g.tcp:])
	ev.Time = time.Unix(r.second, r.nanos).UTC()
	s := &ev.Segment
	if g.tcp == ipv4Start {
		s.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(h[26:30])), be16(tcp[0:]))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(h[30:34])), be16(tcp[2:]))
	} else {
		h := (*[ipv6Start]byte)(frame)
		s.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(h[22:38])).Unmap(), be16(tcp[0:]))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(h[38:54])).Unmap(), be16(tcp[2:]))
	}
	s.Hash, s.Sent = g.hash, r.direction
	s.Link.HasMAC, s.Link.Interface, s.Link.VLAN = true, r.iface, [2]uint16{}
	s.Link.Dst, s.Link.Src = [6]byte(h[0:6]), [6]byte(h[6:12])
	s.Seq, s.Ack, s.Flags = be32(tcp[4:]), be32(tcp[8:]), g.flags
	s.Payload, s.Missing = frame[g.payload:], g.missing
	s.MPTCP, s.TFO = false, false
	if list := frame[g.tcp+tcpHeaderLen : g.payload]; !onlyTimestamps(list) {
		s.MPTCP, s.TFO = options(list)
	}
}

// onlyTimestamps knows the options of almost every segment at one look: two
// bytes of padding and the timestamps (RFC 7323 App. A).
func onlyTimestamps(list []byte) bool {
	const padded = 0x0101080a
	return len(list) == 12 && be32(list) == padded
}

package capture

import (
	"net/netip"
	"time"
)

// PassOver lets d pass over the packets of connections in the set, but for those
// with SYN or RST.
func (d *Decoder) PassOver(done *DoneSet) { d.done = done }

// sight is what a glance shows of a record.
type sight uint8

const (
	// unclear: frame has to decode it.
	unclear sight = iota
	// silent: it has nothing to say.
	silent
	// segment: the Event is filled in.
	segment
)

// glance decodes a record that is plain Ethernet with plain IP and TCP headers,
// as almost all of a capture are, with as few looks as it can: most packets
// belong to other ports, or to a connection that is done. What is not plain is
// unclear; frame would come to the same result for the rest.
func (d *Decoder) glance(r *record, ev *Event) sight {
	if r.link != LinkEthernet || len(r.data) < ethernetLen+ipv6HeaderLen || d.frags.pending.Len() != 0 {
		return unclear
	}
	ip := r.data[ethernetLen:]
	switch be16(r.data[12:]) {
	case etherIPv4:
		const plainHeader, fragmented = 0x45, 0x3fff
		if ip[0] != plainHeader || be16(ip[6:])&fragmented != 0 {
			return unclear
		}
		tcp := ip[ipv4HeaderLen:]
		if ip[9] != protoTCP || !d.ports.watches(tcp) {
			return silent
		}
		hash := d.hasher.join(d.hasher.end4(ip[12:], be16(tcp)), d.hasher.end4(ip[16:], be16(tcp[2:])))
		body, missing := cutTo(tcp, int(be16(ip[2:]))-ipv4HeaderLen)
		found := d.plain(r, hash, body, missing, ev)
		if found == segment {
			s := &ev.Segment
			s.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), be16(tcp))
			s.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), be16(tcp[2:]))
		}
		return found
	case etherIPv6:
		if len(ip) < ipv6HeaderLen+tcpHeaderLen || ip[0]>>4 != 6 || ip[6] != protoTCP {
			return unclear
		}
		tcp := ip[ipv6HeaderLen:]
		if !d.ports.watches(tcp) {
			return silent
		}
		hash := d.hasher.join(d.hasher.end(ip[8:], be16(tcp)), d.hasher.end(ip[24:], be16(tcp[2:])))
		body, missing := cutTo(tcp, int(be16(ip[4:])))
		found := d.plain(r, hash, body, missing, ev)
		if found == segment {
			s := &ev.Segment
			s.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])).Unmap(), be16(tcp))
			s.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])).Unmap(), be16(tcp[2:]))
		}
		return found
	}
	return unclear
}

// cutTo is cut without a header.
func cutTo(data []byte, total int) (body []byte, missing int) {
	if uint(total) <= uint(len(data)) {
		return data[:total], 0
	}
	return data, total - len(data) // below 0 if the length makes no sense
}

// plain fills in all of the Event but the addresses.
func (d *Decoder) plain(r *record, hash uint64, body []byte, missing int, ev *Event) sight {
	if missing < 0 || len(body) < tcpHeaderLen {
		return unclear
	}
	header := int(body[12]>>4) * 4
	if header < tcpHeaderLen || header > len(body) {
		return unclear
	}
	flags := Flags(body[13] & 0x3f)
	if d.done.passesOver(hash, flags, r.second) {
		return silent
	}
	if ev.Kind != Packet {
		*ev = Event{} // one of ours has no more than these fields
	}
	ev.Time = time.Unix(r.second, r.nanos).UTC()
	s := &ev.Segment
	s.Hash = hash
	s.Sent = r.direction
	s.Link.HasMAC, s.Link.Interface = true, r.iface
	s.Link.Dst, s.Link.Src = [6]byte(r.data[0:6]), [6]byte(r.data[6:12])
	s.Seq, s.Ack, s.Flags = be32(body[4:]), be32(body[8:]), flags
	s.Payload, s.Missing = body[header:], missing
	s.MPTCP, s.TFO = false, false
	if list := body[tcpHeaderLen:header]; !onlyTimestamps(list) {
		s.MPTCP, s.TFO = options(list)
	}
	return segment
}

// onlyTimestamps knows the options of almost every segment at one look: two
// bytes of padding and the timestamps (RFC 7323 App. A).
func onlyTimestamps(list []byte) bool {
	const padded = 0x0101080a
	return len(list) == 12 && be32(list) == padded
}

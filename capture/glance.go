package capture

import "net/netip"

// Done says that nothing more of a connection is to be read: its packets are not
// handed on any more, but those with SYN, FIN or RST, and one a minute.
func (d *Decoder) Done(client, server netip.AddrPort, second int64) {
	d.done.add(d.hasher.Pair(client, server), second)
}

// silent tells, with as few looks as possible, that a frame has nothing to say:
// its ports are not watched, or its connection is done. Almost all frames of a
// busy capture are plain Ethernet with a plain IP header, and almost all of
// those are such. Whatever is not plain is for frame to judge; it would come to
// the same result for the others.
func (d *Decoder) silent(link LinkType, frame []byte, second int64) bool {
	if link != LinkEthernet || len(frame) < ethernetLen+ipv6HeaderLen || d.frags.pending.Len() != 0 {
		return false
	}
	switch be16(frame[12:]) {
	case etherIPv4:
		const plainHeader, fragmented = 0x45, 0x3fff
		ip := frame[ethernetLen:]
		if ip[0] != plainHeader || be16(ip[6:])&fragmented != 0 {
			return false
		}
		tcp := ip[ipv4HeaderLen:]
		if ip[9] != protoTCP || !d.ports.watches(tcp) {
			return true
		}
		return d.done.used != 0 && whole(tcp, int(be16(ip[2:]))-ipv4HeaderLen) &&
			d.done.holds(d.hasher.join(d.hasher.end4(ip[12:], be16(tcp)), d.hasher.end4(ip[16:], be16(tcp[2:]))),
				Flags(tcp[13]), second)
	case etherIPv6:
		ip := frame[ethernetLen:]
		if len(ip) < ipv6HeaderLen+tcpHeaderLen || ip[0]>>4 != 6 || ip[6] != protoTCP {
			return false
		}
		tcp := ip[ipv6HeaderLen:]
		if !d.ports.watches(tcp) {
			return true
		}
		return d.done.used != 0 && whole(tcp, int(be16(ip[4:]))) &&
			d.done.holds(d.hasher.join(d.hasher.end(ip[8:], be16(tcp)), d.hasher.end(ip[24:], be16(tcp[2:]))),
				Flags(tcp[13]), second)
	}
	return false
}

// whole tells whether a TCP header is there without its doubts: those concern
// other connections too. length is what the IP header says.
func whole(tcp []byte, length int) bool {
	return length >= tcpHeaderLen && int(tcp[12]>>4)*4 <= len(tcp)
}

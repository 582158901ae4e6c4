package capture

import (
	"encoding/binary"
	"net/netip"
)

// Internet protocol numbers (IANA) of what can stand before a TCP header.
const (
	protoHopByHop    = 0
	protoTCP         = 6
	protoRouting     = 43
	protoFragment    = 44
	protoAH          = 51
	protoDestination = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	// maxExtensions bounds the chain of IPv6 extension headers. Honest packets
	// have two or three.
	maxExtensions = 16
)

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

// cut returns the body of a packet behind its header, as long as the header
// says, and how many bytes of it were not captured. What follows a packet in
// its frame is Ethernet padding or a checksum (RFC 894).
func cut(data []byte, header, total int) (body []byte, missing int) {
	if total <= len(data) {
		return data[header:total], 0
	}
	return data[header:], total - len(data)
}

// ipv4 reads an IPv4 packet (RFC 791 §3.1). Linux drops one whose version,
// header length or total length is impossible, so nothing is lost with it.
func (d *Decoder) ipv4(p *packet, data []byte, wireLen int, ev *Event) bool {
	if len(data) < ipv4HeaderLen {
		d.stats.Short++
		return false
	}
	if data[9] != protoTCP {
		return false
	}
	header := int(data[0]&0xf) * 4
	fragment := be16(data[6:]) & 0x3fff // more fragments, and the offset
	if fragment == 0 && len(data) >= header+4 && !d.ports.watches(data[header:]) {
		return false
	}
	total := int(be16(data[2:]))
	if total == 0 {
		// A super-frame of GRO or TSO beyond 64 KiB, or one that the driver
		// has yet to fill in.
		total = wireLen
	}
	if header < ipv4HeaderLen || total < header {
		return false
	}
	p.src = netip.AddrFrom4([4]byte(data[12:16]))
	p.dst = netip.AddrFrom4([4]byte(data[16:20]))
	if len(data) < header {
		return d.doubt(p, "the snap length cuts the IP header")
	}
	if header > ipv4HeaderLen {
		p.dst = sourceRouted(data[ipv4HeaderLen:header], p.dst)
	}
	body, missing := cut(data, header, total)
	if fragment == 0 {
		return d.tcp(p, body, missing, ev)
	}
	return d.fragment(p, fragmentHeader{
		id:     uint32(be16(data[4:])),
		proto:  protoTCP,
		offset: int(fragment&0x1fff) * 8,
		more:   fragment&0x2000 != 0,
	}, body, missing, ev)
}

// sourceRouted returns where a source route leads in the end that is not used
// up, else dst (RFC 791 §3.1). TCP there knows the connection by it.
func sourceRouted(options []byte, dst netip.Addr) netip.Addr {
	const end, noOperation, loose, strict = 0, 1, 131, 137
	for len(options) >= 2 && options[0] != end {
		if options[0] == noOperation {
			options = options[1:]
			continue
		}
		length := int(options[1])
		if length < 2 || length > len(options) {
			break
		}
		route := options[0] == loose || options[0] == strict
		if route && length >= 7 && int(options[2]) <= length-3 {
			return netip.AddrFrom4([4]byte(options[length-4 : length]))
		}
		options = options[length:]
	}
	return dst
}

// ipv6 reads an IPv6 packet (RFC 8200 §3).
func (d *Decoder) ipv6(p *packet, data []byte, wireLen int, ev *Event) bool {
	if len(data) < ipv6HeaderLen {
		d.stats.Short++
		return false
	}
	proto := data[6]
	if proto == protoTCP && len(data) >= ipv6HeaderLen+4 && !d.ports.watches(data[ipv6HeaderLen:]) {
		return false
	}
	total := ipv6HeaderLen + int(be16(data[4:]))
	if total == ipv6HeaderLen {
		total = wireLen // a jumbogram (RFC 2675) or a super-frame
	}
	p.src = netip.AddrFrom16([16]byte(data[8:24])).Unmap()
	p.dst = netip.AddrFrom16([16]byte(data[24:40])).Unmap()
	body, missing := cut(data, ipv6HeaderLen, total)
	return d.extensions(p, proto, body, missing, true, ev)
}

// extensions walks the IPv6 extension headers (RFC 8200 §4) up to TCP. An
// unknown header ends it: a kernel does not look behind one either. mayFragment
// is false inside of a reassembled datagram.
func (d *Decoder) extensions(p *packet, proto uint8, body []byte, missing int, mayFragment bool, ev *Event) bool {
	for range maxExtensions {
		switch proto {
		case protoTCP:
			return d.tcp(p, body, missing, ev)
		case protoHopByHop, protoRouting, protoFragment, protoAH, protoDestination:
		default:
			return false
		}
		if len(body) < 8 {
			return d.extensionCut(p, missing)
		}
		length := 8 + int(body[1])*8
		switch proto {
		case protoFragment: // RFC 8200 §4.5
			length = 8
			fragment := be16(body[2:])
			if fragment&0xfff9 == 0 {
				break // an atomic fragment is a whole packet (RFC 6946 §4)
			}
			if !mayFragment {
				return d.doubt(p, "an IP fragment inside a fragmented datagram")
			}
			return d.fragment(p, fragmentHeader{
				id:     be32(body[4:]),
				next:   body[0],
				offset: int(fragment & 0xfff8),
				more:   fragment&1 != 0,
			}, body[8:], missing, ev)
		case protoAH: // RFC 4302 §2.2
			length = 8 + int(body[1])*4
		}
		if length > len(body) {
			return d.extensionCut(p, missing)
		}
		if proto == protoRouting && body[3] != 0 && length >= 24 {
			p.dst = lastHop(body[:length])
		}
		proto, body = body[0], body[length:]
	}
	return d.doubt(p, "too many IPv6 extension headers")
}

// extensionCut handles a chain of headers that runs out. Behind a snap length
// TCP may follow; a packet that is too short in itself is dropped by kernels.
func (d *Decoder) extensionCut(p *packet, missing int) bool {
	if missing > 0 {
		return d.doubt(p, "the snap length cuts the IPv6 headers")
	}
	return false
}

// lastHop is the address that a routing header with segments left leads to in
// the end. TCP there knows the connection by it (RFC 9293 §3.9.2.1).
func lastHop(header []byte) netip.Addr {
	const segmentRouting = 4 // its list is in reverse order (RFC 8754 §2)
	last := header[len(header)-16:]
	if header[2] == segmentRouting {
		last = header[8:24]
	}
	return netip.AddrFrom16([16]byte(last)).Unmap()
}

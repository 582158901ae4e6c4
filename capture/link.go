package capture

import (
	"encoding/binary"
	"strconv"
)

// linkType is the format of a file's frames, by its number in pcap and pcapng
// files (the IANA link types of draft-ietf-opsawg-pcaplinktype). Numbers above
// 255 exist, therefore it is wider than gopacket's.
type linkType uint16

// The link types that are read.
const (
	linkNull       linkType = 0   // BSD loopback, family in host byte order
	linkEthernet   linkType = 1   // IEEE 802.3
	linkPPP        linkType = 9   // RFC 1661, with or without HDLC framing
	linkRawBSD     linkType = 12  // raw IP
	linkRawOpenBSD linkType = 14  // raw IP
	linkPPPHDLC    linkType = 50  // RFC 1662
	linkPPPoE      linkType = 51  // RFC 2516 session
	linkRaw        linkType = 101 // raw IP
	linkCiscoHDLC  linkType = 104 // address, control, EtherType (RFC 1547 §4.3.1)
	linkLoop       linkType = 108 // OpenBSD loopback, family in network order
	linkCooked     linkType = 113 // Linux "any" device
	linkIPv4       linkType = 228 // raw IPv4
	linkIPv6       linkType = 229 // raw IPv6
	linkCooked2    linkType = 276 // Linux "any" device, second version
)

// strange are the names of some that are not read, for the message that says so.
var strange = map[linkType]string{
	105: "IEEE 802.11", 107: "Frame Relay", 117: "PFLOG", 119: "IEEE 802.11 with Prism",
	127: "IEEE 802.11 with radiotap", 192: "PPI", 239: "NFLOG", 249: "USBPcap", 258: "PKTAP",
}

func (l linkType) String() string {
	number := strconv.Itoa(int(l))
	if name := strange[l]; name != "" {
		return number + " (" + name + ")"
	}
	return number
}

// supported tells whether network can read frames of type l.
func (l linkType) supported() bool {
	switch l {
	case linkNull, linkEthernet, linkPPP, linkRawBSD, linkRawOpenBSD, linkPPPHDLC, linkPPPoE,
		linkRaw, linkCiscoHDLC, linkLoop, linkCooked, linkIPv4, linkIPv6, linkCooked2:
		return true
	}
	return false
}

// EtherTypes (IEEE, IANA).
const (
	etherIPv4   = 0x0800
	etherVLAN   = 0x8100 // 802.1Q
	etherIPv6   = 0x86dd
	etherPPPoE  = 0x8864 // session (RFC 2516 §4)
	etherQinQ   = 0x88a8 // 802.1ad
	etherOldTag = 0x9100 // QinQ before 802.1ad
)

// PPP protocol numbers (IANA).
const (
	pppIPv4 = 0x0021
	pppIPv6 = 0x0057
)

const (
	ethernetLen = 14
	cookedLen   = 16
	cooked2Len  = 20
	// maxTags bounds the VLAN tags of a frame. The identifiers of the first
	// two are kept.
	maxTags = 4
)

// networkStart says where in a frame the IP header is.
type networkStart struct {
	offset   int
	sent     Sender
	vlan     [2]uint16
	ethernet bool // the frame starts with two MAC addresses
}

// network finds the IP header of a frame; false if the frame holds none.
func network(link linkType, frame []byte) (networkStart, bool) {
	switch link {
	case linkEthernet:
		if len(frame) < ethernetLen {
			return networkStart{}, false
		}
		start := networkStart{offset: ethernetLen, ethernet: true}
		ok := start.etherType(be16(frame[12:]), frame)
		return start, ok
	case linkRaw, linkRawBSD, linkRawOpenBSD, linkIPv4, linkIPv6:
		return networkStart{}, len(frame) > 0
	case linkCooked:
		if len(frame) < cookedLen {
			return networkStart{}, false
		}
		start := networkStart{offset: cookedLen, sent: cookedSender(be16(frame), be16(frame[2:]))}
		ok := start.etherType(be16(frame[14:]), frame)
		return start, ok
	case linkCooked2:
		if len(frame) < cooked2Len {
			return networkStart{}, false
		}
		start := networkStart{offset: cooked2Len, sent: cookedSender(uint16(frame[10]), be16(frame[8:]))}
		ok := start.etherType(be16(frame), frame)
		return start, ok
	case linkNull, linkLoop:
		return networkStart{offset: 4}, len(frame) > 4 && loopbackFamily(link, frame)
	case linkPPP, linkPPPHDLC:
		var start networkStart
		if len(frame) >= 2 && frame[0] == 0xff && frame[1] == 0x03 {
			start.offset = 2 // HDLC address and control (RFC 1662 §3.1)
		}
		ok := start.ppp(frame)
		return start, ok
	case linkCiscoHDLC:
		if len(frame) < 4 {
			return networkStart{}, false
		}
		start := networkStart{offset: 4}
		ok := start.etherType(be16(frame[2:]), frame)
		return start, ok
	case linkPPPoE:
		var start networkStart
		ok := start.etherType(etherPPPoE, frame)
		return start, ok
	}
	return networkStart{}, false
}

// etherType walks VLAN tags and a PPPoE session header to the IP header.
func (s *networkStart) etherType(kind uint16, frame []byte) bool {
	for tag := range maxTags + 1 {
		switch kind {
		case etherIPv4, etherIPv6:
			return true
		case etherVLAN, etherQinQ, etherOldTag:
			if len(frame) < s.offset+4 {
				return false
			}
			if tag < len(s.vlan) {
				s.vlan[tag] = be16(frame[s.offset:]) & 0x0fff
			}
			kind = be16(frame[s.offset+2:])
			s.offset += 4
		case etherPPPoE:
			const session = 0x1100 // version 1, type 1, code 0 (RFC 2516 §4)
			if len(frame) < s.offset+6 || be16(frame[s.offset:]) != session {
				return false
			}
			s.offset += 6
			return s.ppp(frame)
		default:
			return false
		}
	}
	return false
}

// ppp steps over a PPP protocol field, which may be compressed to one byte
// (RFC 1661 §6.5).
func (s *networkStart) ppp(frame []byte) bool {
	if len(frame) < s.offset+2 {
		return false
	}
	if first := frame[s.offset]; first == pppIPv4 || first == pppIPv6 {
		s.offset++
		return true
	}
	protocol := be16(frame[s.offset:])
	s.offset += 2
	return protocol == pppIPv4 || protocol == pppIPv6
}

// sender reads the packet type of a cooked header or of AF_PACKET (packet(7)).
func sender(packetType uint16) Sender {
	const outgoing = 4
	if packetType == outgoing {
		return SenderHost
	}
	return SenderOutside
}

// cookedSender reads the packet type of a cooked header, from a device of a type
// (ARPHRD_, <linux/if_arp.h>). Of what passes the loopback device libpcap keeps the one
// copy that comes in, of both sides.
func cookedSender(packetType, device uint16) Sender {
	const loopback = 772
	if device == loopback {
		return SenderUnknown
	}
	return sender(packetType)
}

// loopbackFamily checks the address family before a BSD loopback packet: that
// of IPv4, or of IPv6 on one of the systems that write it. linkNull is in the
// byte order of the capturing host, which the file's need not be.
func loopbackFamily(link linkType, frame []byte) bool {
	family := be32(frame)
	if link == linkNull && family > 0xffff {
		family = binary.LittleEndian.Uint32(frame)
	}
	switch family {
	case 2, 10, 23, 24, 28, 30:
		return true
	}
	return false
}

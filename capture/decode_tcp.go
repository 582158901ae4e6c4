package capture

import "net/netip"

const tcpHeaderLen = 20

// TCP option kinds (IANA) that the flow stage must know of.
const (
	optionEnd          = 0
	optionNoOperation  = 1
	optionMPTCP        = 30  // RFC 8684 §3
	optionFastOpen     = 34  // RFC 7413 §4.1.1
	optionExperimental = 254 // RFC 6994
	// fastOpenID marks the experimental option as Fast Open (RFC 7413 App. A).
	fastOpenID = 0xf989
)

// tcp reads a TCP segment (RFC 9293 §3.1), of which missing bytes were on the
// wire behind body. What the header claims wrongly is clipped to what is there:
// a kernel drops such a segment, and the flow stage sees whether it conflicts.
func (d *Decoder) tcp(p *packet, body []byte, missing int, ev *Event) bool {
	if len(body) < 4 {
		if missing > 0 {
			return d.doubt(p, "the snap length cuts the TCP ports")
		}
		return false
	}
	if !d.ports.watches(body) {
		return false
	}
	if len(body) < tcpHeaderLen {
		if missing > 0 {
			return d.doubt(p, "the snap length cuts the TCP header")
		}
		return d.doubt(p, "a packet too short for its TCP header")
	}
	header := max(int(body[12]>>4)*4, tcpHeaderLen)
	if header > len(body) {
		if header <= len(body)+missing {
			return d.doubt(p, "the snap length cuts the TCP options")
		}
		header = len(body)
	}
	*ev = Event{Kind: Packet, Time: p.time}
	s := &ev.Segment
	s.Src = netip.AddrPortFrom(p.src, be16(body))
	s.Dst = netip.AddrPortFrom(p.dst, be16(body[2:]))
	s.Sent, s.Aside, s.Link = p.sent, p.aside, p.link
	s.Seq, s.Ack = be32(body[4:]), be32(body[8:])
	s.Flags = flags(body)
	s.Payload, s.Missing = body[header:], missing
	s.MPTCP, s.TFO = options(body[tcpHeaderLen:header])
	if d.waiting() && len(s.Payload)+missing > 0 {
		d.doubtUnfinished(p)
	}
	return true
}

// options looks for Multipath TCP and Fast Open. Like Linux it stops at the
// first option whose length is impossible.
func options(list []byte) (mptcp, fastOpen bool) {
	for len(list) > 0 {
		kind := list[0]
		if kind == optionEnd {
			break
		}
		if kind == optionNoOperation {
			list = list[1:]
			continue
		}
		if len(list) < 2 || list[1] < 2 || int(list[1]) > len(list) {
			break
		}
		option := list[:list[1]]
		switch kind {
		case optionMPTCP:
			mptcp = true
		case optionFastOpen:
			fastOpen = true
		case optionExperimental:
			fastOpen = fastOpen || len(option) >= 4 && be16(option[2:]) == fastOpenID
		}
		list = list[len(option):]
	}
	return mptcp, fastOpen
}

package flow

import (
	"relaygate/authz"
	"relaygate/capture"
)

// guard tells the segments that the server sent from those that only bear its
// address (see the package comment, "Who is the server").
type guard struct {
	proof proof
	// link is where the server's segments are seen: VLAN and interface, and
	// with byStation in Src the server's hardware address.
	link capture.Link
}

type proof uint8

const (
	byHost      proof = iota // this host sent them
	byInside                 // they came in where a gateway sends to the server
	byOutside                // they came in; the capture was made at the client
	byStation                // the station that the SYN was sent to
	byNothing                // raw IP or loopback: nothing to go by
	byRewritten              // both directions bear the same two hardware addresses
	byGroups                 // both hardware addresses are of groups, which send nothing
)

// origin is what a flow under this guard may claim.
func (g *guard) origin() authz.Origin {
	switch g.proof {
	case byHost:
		return authz.FromHost
	case byInside:
		return authz.FromInside
	case byStation:
		return authz.FromHandshake
	}
	return authz.Unauthenticated
}

// authentic reports whether a segment that bears the server's address is the
// server's. What contradicts said of it is handed in: both compare the link.
func (g *guard) authentic(seg *capture.Segment, contradicts bool) bool {
	switch g.proof {
	case byHost:
		return seg.Sent == capture.SenderHost
	case byInside:
		return seg.Sent == capture.SenderInside && sameLane(&g.link, &seg.Link)
	case byOutside:
		return seg.Sent == capture.SenderOutside
	case byStation, byGroups:
		// A frame sent to the server's own address was not sent by it,
		// whatever its source says, nor was one to a group, which reaches every
		// tap. The destination may change: routers do.
		return seg.Sent == capture.SenderUnknown && seg.Link.HasMAC && sameLane(&g.link, &seg.Link) &&
			seg.Link.Src == g.link.Src && seg.Link.Dst != g.link.Src && (g.proof == byGroups || !group(seg.Link.Dst))
	case byNothing:
		return seg.Sent == capture.SenderUnknown && noStations(&seg.Link) && sameLane(&g.link, &seg.Link)
	case byRewritten:
		return seg.Sent == capture.SenderUnknown && !contradicts
	}
	return false
}

// contradicts reports whether a segment of either side shows that the hardware
// addresses do tell the stations apart, against what was assumed.
func (g *guard) contradicts(seg *capture.Segment) bool {
	return g.proof >= byRewritten && g.unlike(seg) // inlined up to there: few assume anything
}

func (g *guard) unlike(seg *capture.Segment) bool {
	if g.proof == byRewritten {
		return seg.Link != g.link
	}
	return !group(seg.Link.Src)
}

// guardOf decides whether answer, a SYN-ACK, comes from where the SYN went, and
// how the later segments of that server are told. The SYN was seen at synLink;
// host and outside say whether it was seen going out and coming in, spoke
// whether the station that it was sent to ever sent anything in this capture.
func guardOf(synLink *capture.Link, host, outside, spoke bool, answer *capture.Segment) (guard, bool) {
	switch answer.Sent {
	case capture.SenderHost:
		return guard{proof: byHost}, true
	case capture.SenderInside:
		return guard{proof: byInside, link: answer.Link}, outside && !host && sameLane(synLink, &answer.Link)
	case capture.SenderOutside:
		// A SYN that came in is answered by this host, so a SYN-ACK that
		// came in too is forged. On loopback the SYN is seen both ways.
		return guard{proof: byOutside}, host && !outside
	}
	link := &answer.Link
	if host || outside || !sameLane(synLink, link) {
		return guard{}, false
	}
	if noStations(synLink) && noStations(link) {
		return guard{proof: byNothing, link: *link}, true
	}
	if *link == *synLink && synLink.HasMAC && !spoke {
		return guard{proof: byRewritten, link: *link}, true
	}
	g := guard{proof: byStation, link: *link}
	if group(synLink.Src) && group(link.Src) {
		g.proof = byGroups
	}
	ok := synLink.HasMAC && link.HasMAC && link.Src == synLink.Dst && link.Dst != synLink.Dst &&
		(g.proof == byGroups || !groupOrZero(link.Src) && !group(link.Dst))
	return g, ok
}

func sameLane(a, b *capture.Link) bool {
	return a.HasMAC == b.HasMAC && a.VLAN == b.VLAN && a.Interface == b.Interface
}

func noStations(l *capture.Link) bool {
	return !l.HasMAC || l.Src == [6]byte{} && l.Dst == [6]byte{}
}

// stations is the set of hardware addresses that sent something, by a hash: two
// that share a bit make a rewritten file look forged, not the other way round.
type stations [1 << 16 / 64]uint64

func (s *stations) bit(mac [6]byte) (*uint64, uint64) {
	hi, lo := mac[0]^mac[2]^mac[4], mac[1]^mac[3]^mac[5]
	n := uint16(hi)<<8 | uint16(lo)
	return &s[n/64], 1 << (n % 64)
}

func (s *stations) add(mac [6]byte) {
	word, bit := s.bit(mac)
	*word |= bit
}

func (s *stations) has(mac [6]byte) bool {
	word, bit := s.bit(mac)
	return *word&bit != 0
}

// groupOrZero is true for addresses that no station sends from: group addresses
// (IEEE 802 clause 8.2) and zero.
func groupOrZero(mac [6]byte) bool {
	return group(mac) || mac == [6]byte{}
}

func group(mac [6]byte) bool { return mac[0]&1 != 0 }

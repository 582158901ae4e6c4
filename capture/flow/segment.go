package flow

import "relaygate/capture"

// isSYN is true for the first segment of a handshake.
func isSYN(seg *capture.Segment) bool {
	return seg.Flags&(capture.SYN|capture.ACK|capture.RST) == capture.SYN
}

// isSYNACK is true for its answer.
func isSYNACK(seg *capture.Segment) bool {
	return seg.Flags&(capture.SYN|capture.ACK|capture.RST) == capture.SYN|capture.ACK
}

// length is how many bytes a segment has, seen or not.
func length(seg *capture.Segment) int { return len(seg.Payload) + seg.Missing }

// carries is true for a segment with any.
func carries(seg *capture.Segment) bool { return length(seg) > 0 }

// tells is true for a segment that shows a session by itself.
func tells(seg *capture.Segment) bool { return carries(seg) && !seg.Aside }

// ends is true for a segment behind which its sender says no more.
func ends(seg *capture.Segment) bool { return seg.Flags&(capture.FIN|capture.RST) != 0 }

// firstByte is the sequence number of the first byte that a segment has, or could have:
// a SYN comes before it (RFC 9293 §3.4).
func firstByte(seg *capture.Segment) uint32 {
	if seg.Flags&capture.SYN != 0 {
		return seg.Seq + 1
	}
	return seg.Seq
}

// distance is how far it is from one sequence number to another, which come round to 0
// (RFC 9293 §3.4): it is negative where the other comes before.
func distance(from, to uint32) int { return int(int32(to - from)) }

// before reports whether a sequence number comes before another.
func before(a, b uint32) bool { return distance(b, a) < 0 }

// dataWithHandshake is why a flow is in doubt of whose handshake a segment with bytes is.
// No honest client sends such but for Fast Open (RFC 7413), and which server takes them is
// not to be seen.
func dataWithHandshake(seg *capture.Segment) string {
	if seg.TFO {
		return reasonFastOpen
	}
	return reasonHandshakeData
}

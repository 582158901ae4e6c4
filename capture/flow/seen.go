package flow

import "relaygate/capture"

// seen are the connections that were established lately. A capture of several
// interfaces, or one that was joined of several, can show a connection whole more than
// once, one after the other; it is read once. Two that share a slot push each other
// out, and may then be read twice; there are few slots, as each connection touches one
// and the copies are mostly milliseconds apart.
type seen [1 << 12]uint64

// again notes a connection, and reports whether it was the last in its slot.
func (s *seen) again(identity uint64) bool {
	slot := &s[identity%uint64(len(s))]
	was := *slot
	*slot = identity
	return was == identity
}

// identity is a keyed hash of the ends of a connection and of its first sequence
// numbers, of which a server does not choose the same again (RFC 9293 §3.4.1).
func (h *handshake) identity(by *capture.Hasher) uint64 {
	return by.Words(h.hash, uint64(h.clientISN)<<32|uint64(h.serverISN))
}

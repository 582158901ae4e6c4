package flow

import "relaygate/capture"

// seen are the connections that were established lately. A capture of several
// interfaces, or one that was joined of several, can show a connection whole more than
// once, one after the other; it is read once. Each has its row by a part of its identity,
// the latest first: what comes pushes out the oldest. There are few, as the copies are
// mostly milliseconds apart and each connection touches a row.
type seen [64][8]uint64

// again notes a connection, and reports whether it was there.
func (s *seen) again(identity uint64) bool {
	row := &s[identity%uint64(len(s))]
	for _, was := range row {
		if was == identity {
			return true
		}
	}
	copy(row[1:], row[:])
	row[0] = identity
	return false
}

// identity is a keyed hash of the ends of a connection and of its first sequence
// numbers, of which a server does not choose the same again (RFC 9293 §3.4.1).
func (h *handshake) identity(by *capture.Hasher) uint64 {
	return by.Words(h.hash, uint64(h.clientISN)<<32|uint64(h.serverISN))
}

package flow

import "relaygate/capture"

// seen are the connections that were established lately. A capture of several
// interfaces can show one whole on each of them, one after the other; it is read once.
// Each has its row by a part of its identity, the latest first: what comes pushes out
// the oldest. There are few, as the copies are milliseconds apart and each connection
// touches a row.
type seen [64][8]uint64

// elsewhere notes a connection and the interface where it was seen, and reports whether
// it was seen on another one before.
func (s *seen) elsewhere(identity uint64, on uint32) bool {
	const interfaces = 1<<16 - 1 // the part of a place that has the interface
	row := &s[identity>>16%uint64(len(s))]
	now := identity&^interfaces | uint64(on)&interfaces
	for _, was := range row {
		if (was^now)&^interfaces == 0 {
			return was != now
		}
	}
	copy(row[1:], row[:])
	row[0] = now
	return false
}

// identity is a keyed hash of the ends of a connection and of its first sequence
// numbers, of which a server does not choose the same again (RFC 9293 §3.4.1).
func (h *handshake) identity(by *capture.Hasher) uint64 {
	return by.Words(h.hash, uint64(h.clientISN)<<32|uint64(h.serverISN))
}

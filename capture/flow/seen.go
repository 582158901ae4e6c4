package flow

import "relaygate/capture"

// seen are the connections that were established lately. A capture of several
// interfaces can show one whole on each of them, one after the other; it is read once.
// Two that share a slot push each other out, and may then be read twice; there are few
// slots, as each connection touches one and the copies are milliseconds apart.
type seen [1 << 12]uint64

// elsewhere notes a connection and the interface where it was seen, and reports whether
// it was seen on another one before.
func (s *seen) elsewhere(identity uint64, on uint32) bool {
	const interfaces = 1<<16 - 1 // the part of a slot that has the interface
	slot, now := &s[identity%uint64(len(s))], identity&^interfaces|uint64(on)&interfaces
	was := *slot
	if was != now && (was^now)&^interfaces == 0 {
		return true
	}
	*slot = now
	return false
}

// identity is a keyed hash of the ends of a connection and of its first sequence
// numbers, of which a server does not choose the same again (RFC 9293 §3.4.1).
func (h *handshake) identity(by *capture.Hasher) uint64 {
	return by.Words(h.hash, uint64(h.clientISN)<<32|uint64(h.serverISN))
}

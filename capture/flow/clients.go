package flow

import (
	"encoding/binary"
	"net/netip"

	"relaygate/capture"
)

// client groups flows: an IPv4 address or an IPv6 /64, which one host can own
// whole. Its upper half is 0 for IPv4.
type client struct{ hi, lo uint64 }

func clientOf(addr netip.Addr) client {
	b := addr.As16()
	c := client{hi: binary.BigEndian.Uint64(b[:8])}
	if addr.Is4() {
		c.lo = binary.BigEndian.Uint64(b[8:])
	}
	return c
}

func (c client) hash(h *capture.Hasher) uint64 { return h.Words(c.hi, c.lo) }

// list finds the first flow of a client by its hash.
func (s *slots) list(c client, hash uint64) (head ID, ok bool) {
	for i := tag(hash); ; i++ {
		at := s.clients.at(i)
		if at == freeSlot {
			return 0, false
		}
		if at.tag() != tag(hash) {
			continue
		}
		if head = ID(at.number()); clientOf(s.at(head).conn.Client.Addr()) == c {
			return head, true
		}
	}
}

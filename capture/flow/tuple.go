package flow

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/capture"
)

// tuple is a connection with the hash of its two ends (files; see index.go).
type tuple struct {
	conn authz.Conn
	hash uint64
	// eitherWay: the client's port is watched, too (files). Kept here, as the set
	// of ports is larger than what the cache holds on to.
	eitherWay bool
}

// find returns what the ends of a connection lead to: its flow, or its entry in
// the ring of handshakes, which hold the tuple themselves. An entry that gives
// its tuple up must be taken out, or replaced, before.
func (t *Table) find(hash uint64, client, server *netip.AddrPort) (r ref, ok bool) {
	for i := tag(hash); ; i++ {
		s := t.tuples.at(i)
		if s == freeSlot {
			return 0, false
		}
		if s.tag() != tag(hash) {
			continue
		}
		r = ref(s.number())
		if c := &t.tupleOf(r).conn; c.Client == *client && c.Server == *server {
			return r, true
		}
	}
}

func (t *Table) tupleOf(r ref) *tuple {
	if r&ringBit != 0 {
		return &t.entry(r).tuple
	}
	return &t.slots.at(ID(r)).tuple
}

// hashOf is the hash of a segment's two ends.
func (t *Table) hashOf(seg *capture.Segment) uint64 {
	if seg.Hash != 0 {
		return seg.Hash
	}
	return t.hasher.Pair(seg.Src, seg.Dst)
}

package flow

import (
	"net/netip"

	"relaygate/authz"
)

// tuple is a connection with the hash of its two ends (files; see index.go).
type tuple struct {
	conn authz.Conn
	hash uint64
}

// find returns what the ends of a connection lead to: its flow, or its entry in
// the ring of handshakes, which hold the tuple themselves. An entry that gives
// its tuple up must be taken out, or replaced, before.
func (t *Table) find(hash uint64, client, server *netip.AddrPort) (r ref, ok bool) {
	for at, number, more := t.tuples.next(hash, home(hash)); more; at, number, more = t.tuples.next(hash, at+1) {
		r = ref(number)
		if c := &t.tupleOf(r).conn; c.Client == *client && c.Server == *server {
			return r, true
		}
	}
	return 0, false
}

func (t *Table) tupleOf(r ref) *tuple {
	if r&ringBit != 0 {
		return &t.entry(r).tuple
	}
	return &t.slots.at(ID(r)).tuple
}

package flow

import (
	"net/netip"

	"relaygate/capture"
)

// tuple is a connection's key in a file: compact and without pointers, so that
// comparing it is one pass. hash is the same for both directions.
type tuple struct {
	client, server         [16]byte
	clientPort, serverPort uint16
	hash                   uint64
}

func tupleOf(client, server netip.AddrPort, hash uint64) tuple {
	return tuple{client.Addr().As16(), server.Addr().As16(), client.Port(), server.Port(), hash}
}

// tuples leads from a tuple to its flow, or to its entry in the ring of
// handshakes, which hold the key. An entry that gives up its key must be taken
// out, or replaced, before.
type tuples struct {
	hasher capture.Hasher
	index  index
}

// find returns what a tuple leads to.
func (t *Table) find(key *tuple) (at uint32, r ref, ok bool) {
	x := &t.tuples.index
	for at, number, more := x.next(key.hash, x.home(key.hash)); more; at, number, more = x.next(key.hash, at+1) {
		if r = ref(number); *t.keyOf(r) == *key {
			return at, r, true
		}
	}
	return 0, 0, false
}

func (t *Table) keyOf(r ref) *tuple {
	if r&ringBit != 0 {
		return &t.ring[r&^ringBit].key
	}
	return &t.slots.at(ID(r)).key
}

// lead makes a tuple lead to r.
func (t *Table) lead(key *tuple, r ref) {
	if at, _, ok := t.find(key); ok {
		t.tuples.index.set(at, uint32(r))
	} else {
		t.tuples.index.add(key.hash, uint32(r))
	}
}

// unlead takes a tuple out if it leads to r.
func (t *Table) unlead(key *tuple, r ref) {
	if at, now, ok := t.find(key); ok && now == r {
		t.tuples.index.remove(at)
	}
}

package flow

import (
	"encoding/binary"
	"net/netip"
)

// tuple is a connection's key in a file: compact and without pointers, so that
// comparing it is one pass. hash is the same for both directions.
type tuple struct {
	client, server [16]byte
	ports          uint32 // the client's above the server's
	hash           uint64
}

// equal is faster than the comparison that the compiler makes.
func (k *tuple) equal(o *tuple) bool {
	return k.hash == o.hash && k.ports == o.ports &&
		word(k.client[8:]) == word(o.client[8:]) && word(k.client[:]) == word(o.client[:]) &&
		word(k.server[8:]) == word(o.server[8:]) && word(k.server[:]) == word(o.server[:])
}

func word(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

func (k *tuple) set(client, server netip.AddrPort, hash uint64) {
	k.client, k.server = client.Addr().As16(), server.Addr().As16()
	k.ports = uint32(client.Port())<<16 | uint32(server.Port())
	k.hash = hash
}

// find returns what a tuple leads to: its flow, or its entry in the ring of
// handshakes, which hold the key. An entry that gives up its key must be taken
// out, or replaced, before.
func (t *Table) find(key *tuple) (at uint32, r ref, ok bool) {
	for at, number, more := t.tuples.next(key.hash, home(key.hash)); more; at, number, more = t.tuples.next(key.hash, at+1) {
		if r = ref(number); t.keyOf(r).equal(key) {
			return at, r, true
		}
	}
	return 0, 0, false
}

func (t *Table) keyOf(r ref) *tuple {
	if r&ringBit != 0 {
		return &t.entry(uint32(r &^ ringBit)).key
	}
	return &t.slots.at(ID(r)).key
}

// lead makes a tuple lead to r.
func (t *Table) lead(key *tuple, r ref) {
	if at, _, ok := t.find(key); ok {
		t.tuples.set(at, uint32(r))
	} else {
		t.tuples.add(key.hash, uint32(r))
	}
}

// unlead takes a tuple out if it leads to r.
func (t *Table) unlead(key *tuple, r ref) {
	if at, now, ok := t.find(key); ok && now == r {
		t.tuples.remove(at)
	}
}

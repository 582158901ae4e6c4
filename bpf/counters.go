package bpf

import (
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
)

// Counters are sums since the load, over all CPUs. What of them no status tells, here and
// in TLSCounters, is what the tests know of the programs' decisions.
type Counters struct {
	// Opened and Closed count the connections that were followed.
	Opened, Closed uint64
	// Connections that are not believed: the client sent data with the handshake,
	// or the connection is a part of an MPTCP one.
	FastOpen, Multipath uint64
	// FlowsFull and EventsFull count connections that were not followed, for
	// want of an entry or of room in the ring (of the latter also a Lost that
	// was not told).
	FlowsFull, EventsFull uint64
	// ClosesLate counts connections whose Closed found no room in the ring.
	ClosesLate uint64
	// Connections lost because the ring was full, because the client sent
	// too much without an answer, or because both sent too much.
	RingFull, Unanswered, FlowFull uint64
	// Packets were put into the ring, Truncated of them not whole.
	Packets, Truncated uint64
	// Wakeups counts the packets that woke the reader.
	Wakeups uint64

	// Of a Wire alone. Displaced counts handshakes that others pushed out of their
	// places; Forged segments with a server's address that came in where this host
	// does not send to that server, or that no socket of it sent; Unreadable packets
	// that may be TCP and show no ports, which put their client in doubt; Tagged
	// frames with a VLAN tag behind another; Idle connections given up for silence;
	// TwoAnswers connections that are not followed because the server may have taken
	// another handshake than the one that was seen.
	Displaced, Forged, Unreadable, Tagged, Idle, TwoAnswers uint64
}

// TLSCounters are sums since the load, over all CPUs and library files.
type TLSCounters struct {
	// Handshakes counts ServerHellos of followed connections, Bound those of
	// which a library's object was found.
	Handshakes, Bound uint64
	// SameRandom and TwoHellos count connections that are lost because their
	// ServerHello was not the only one; RandomsFull those that cannot be
	// bound for want of an entry.
	SameRandom, TwoHellos, RandomsFull uint64
	// Refused counts calls of processes that descend from no server.
	Refused uint64
	// Clients counts calls on the client's end of a followed connection.
	Clients uint64
	// Unbound counts calls with content whose object belongs to no followed
	// connection, for instance to one of another port.
	Unbound uint64
	// Late counts connections lost because they were opened before the
	// probes; CallsFull calls that were not followed for want of an entry;
	// Unseen calls of which the return or the outer call was not seen; Unread
	// calls whose object could not be read.
	Late, CallsFull, Unseen, Unread uint64
	// Plain counts what was put into the ring, PlainTruncated of that what was not
	// whole; PlainLost connections lost for too much, or a full ring.
	Plain, PlainTruncated, PlainLost uint64
}

// Counters reads the counters.
func (t *Tap) Counters() (Counters, error) { return sums[Counters](t.objs.Counters) }

// Counters reads the counters.
func (w *Wire) Counters() (Counters, error) { return sums[Counters](w.objs.Counters) }

// TLSCounters reads the counters of what TLS libraries show.
func (t *Tap) TLSCounters() (TLSCounters, error) { return sums[TLSCounters](t.objs.Counters) }

// sums adds up, over all CPUs, the counters that bear the names of T's fields.
func sums[T Counters | TLSCounters](counters *ebpf.Map) (all T, err error) {
	var perCPU []tapCounters
	if err := counters.Lookup(uint32(0), &perCPU); err != nil {
		return all, fmt.Errorf("read the tap's counters: %w", err)
	}
	for i := range perCPU {
		one := reflect.ValueOf(&perCPU[i]).Elem()
		for field, sum := range reflect.ValueOf(&all).Elem().Fields() {
			sum.SetUint(sum.Uint() + one.FieldByName(field.Name).Uint())
		}
	}
	return all, nil
}

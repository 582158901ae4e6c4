package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Counters are sums since the load, over all CPUs.
type Counters struct {
	// Opened and Closed count the connections that were followed.
	Opened, Closed uint64
	// Connections of watched ports whose listener is not believed: it is in
	// a namespace that is not trusted, or its owner is not; the client sent
	// data with the SYN; or the connection is a part of an MPTCP one.
	ForeignNetns, ForeignOwner, FastOpen, Multipath uint64
	// FlowsFull and EventsFull count connections that were not followed, for
	// want of an entry or of room in the ring (of the latter also a Lost that
	// was not told).
	FlowsFull, EventsFull uint64
	// ClosesLost counts connections whose Closed was not told.
	ClosesLost uint64
	// Connections lost because the ring was full, because the client sent
	// too much without an answer, or because both sent too much.
	RingFull, Unanswered, FlowFull uint64
	// Packets and Bytes were put into the ring, Truncated of them not whole.
	Packets, Bytes, Truncated uint64
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

func (c *Counters) add(o *tapCounters) {
	c.Opened += o.Opened
	c.Closed += o.Closed
	c.ForeignNetns += o.ForeignNetns
	c.ForeignOwner += o.ForeignOwner
	c.FastOpen += o.FastOpen
	c.Multipath += o.Multipath
	c.FlowsFull += o.FlowsFull
	c.EventsFull += o.EventsFull
	c.ClosesLost += o.ClosesLost
	c.RingFull += o.RingFull
	c.Unanswered += o.Unanswered
	c.FlowFull += o.FlowFull
	c.Packets += o.Packets
	c.Bytes += o.Bytes
	c.Truncated += o.Truncated
	c.Wakeups += o.Wakeups
	c.Displaced += o.Displaced
	c.Forged += o.Forged
	c.Unreadable += o.Unreadable
	c.Tagged += o.Tagged
	c.Idle += o.Idle
	c.TwoAnswers += o.TwoAnswers
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
	// Plain and PlainBytes were put into the ring, PlainTruncated of them not
	// whole; PlainLost counts connections lost for too much, or a full ring.
	Plain, PlainBytes, PlainTruncated, PlainLost uint64
}

func (c *TLSCounters) add(o *tapCounters) {
	c.Handshakes += o.Handshakes
	c.Bound += o.Bound
	c.SameRandom += o.SameRandom
	c.TwoHellos += o.TwoHellos
	c.RandomsFull += o.RandomsFull
	c.Refused += o.Refused
	c.Clients += o.Clients
	c.Unbound += o.Unbound
	c.Late += o.Late
	c.CallsFull += o.CallsFull
	c.Unseen += o.Unseen
	c.Unread += o.Unread
	c.Plain += o.Plain
	c.PlainBytes += o.PlainBytes
	c.PlainTruncated += o.PlainTruncated
	c.PlainLost += o.PlainLost
}

// Counters reads the counters.
func (t *Tap) Counters() (sum Counters, err error) {
	err = eachCPU(t.objs.Counters, sum.add)
	return sum, err
}

// Counters reads the counters.
func (w *Wire) Counters() (sum Counters, err error) {
	err = eachCPU(w.objs.Counters, sum.add)
	return sum, err
}

// TLSCounters reads the counters of what TLS libraries show.
func (t *Tap) TLSCounters() (sum TLSCounters, err error) {
	err = eachCPU(t.objs.Counters, sum.add)
	return sum, err
}

// eachCPU calls add with the counters of each CPU.
func eachCPU(counters *ebpf.Map, add func(*tapCounters)) error {
	var perCPU []tapCounters
	if err := counters.Lookup(uint32(0), &perCPU); err != nil {
		return fmt.Errorf("read the tap's counters: %w", err)
	}
	for i := range perCPU {
		add(&perCPU[i])
	}
	return nil
}

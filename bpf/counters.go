package bpf

import "fmt"

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
	// ClosesLost counts connections whose Closed was not told. Has finds them.
	ClosesLost uint64
	// Connections lost because the ring was full, because the client sent
	// too much without an answer, or because both sent too much.
	RingFull, Unanswered, FlowFull uint64
	// Packets and Bytes were put into the ring, Truncated of them not whole.
	Packets, Bytes, Truncated uint64
	// Wakeups counts the packets that woke the reader.
	Wakeups uint64
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
}

// Counters reads the counters.
func (t *Tap) Counters() (Counters, error) {
	var perCPU []tapCounters
	if err := t.objs.Counters.Lookup(uint32(0), &perCPU); err != nil {
		return Counters{}, fmt.Errorf("read the tap's counters: %w", err)
	}
	var sum Counters
	for i := range perCPU {
		sum.add(&perCPU[i])
	}
	return sum, nil
}

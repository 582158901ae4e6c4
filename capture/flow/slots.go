package flow

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/capture"
)

// phase is the state of a slot.
type phase uint8

const (
	free phase = iota
	// following: the streams are read.
	following
	// finished: a verdict was reached or the flow is tainted; only its end
	// is waited for.
	finished
)

// flow is a slot: one connection.
type flow struct {
	phase  phase
	conn   authz.Conn
	origin authz.Origin

	// The client's stream: the next byte to release, and where it began.
	clientNext, clientISN uint32
	// The client's FIN, if a candidate of it was seen; clientDone is true once
	// it was acknowledged.
	clientFIN     uint32
	hasClientFIN  bool
	clientDone    bool
	clientPast    uint32 // the lowest candidate that was too far ahead to keep
	hasClientPast bool

	// The server's stream: the next byte to release, where it began, where its
	// FIN is, and the highest sequence number that any segment showed.
	serverNext, serverISN uint32
	serverFIN             uint32
	hasServerFIN          bool
	serverEnd             uint32

	client, server *window // nil while nothing waits

	// Files only.
	key   tuple
	guard guard
	last  int64  // time of the last segment, in Unix nanoseconds
	reuse uint32 // the ring entry of a SYN inside this flow, plus one
	// aborted: an RST came from the client's address, and no segment of the
	// server since.
	aborted bool

	prev, next ID  // the client's other flows, plus one; 0 ends the list
	siblings   int // in the head of the list: how long it is
}

// clientKey groups flows by client: an IPv4 address or an IPv6 /64, which one
// host can own whole.
type clientKey [16]byte

func clientKeyOf(addr netip.Addr) clientKey {
	key := clientKey(addr.As16())
	if addr.Is6() {
		clear(key[8:])
	}
	return key
}

// pageSize is how many slots are allocated at one time.
const pageSize = 256

// slots holds the flows. A slot never moves.
type slots struct {
	pages   []*[pageSize]flow
	free    []ID
	hasher  capture.Hasher
	clients index // of the heads of lists
	open    int
}

func (s *slots) at(id ID) *flow {
	return &s.pages[id/pageSize][id%pageSize]
}

// size is the number of slots, used or free.
func (s *slots) size() ID { return ID(len(s.pages) * pageSize) }

// take returns a free slot, linked to its client's others.
func (s *slots) take(conn authz.Conn) (ID, *flow) {
	if len(s.free) == 0 {
		first := s.size()
		s.pages = append(s.pages, new([pageSize]flow))
		for i := ID(pageSize); i > 0; i-- {
			s.free = append(s.free, first+i-1)
		}
	}
	id := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	f := s.at(id)
	f.phase, f.conn = following, conn

	f.siblings = 1
	if head, at, ok := s.ofClient(conn.Client.Addr()); ok {
		first := s.at(head)
		f.next, first.prev = head+1, id+1
		f.siblings += first.siblings
		s.clients.set(at, uint32(id))
	} else {
		s.clients.add(s.clientHash(conn.Client.Addr()), uint32(id))
	}
	s.open++
	return id, f
}

// ofClient finds the first flow of the client with an address.
func (s *slots) ofClient(addr netip.Addr) (head ID, at uint32, ok bool) {
	key, hash := clientKeyOf(addr), s.clientHash(addr)
	for at, number, more := s.clients.next(hash, home(hash)); more; at, number, more = s.clients.next(hash, at+1) {
		if head = ID(number); clientKeyOf(s.at(head).conn.Client.Addr()) == key {
			return head, at, true
		}
	}
	return 0, 0, false
}

// clientHash is that of clientKeyOf.
func (s *slots) clientHash(addr netip.Addr) uint64 {
	return s.hasher.Address(clientKeyOf(addr))
}

// release frees a slot.
func (s *slots) release(id ID) {
	f := s.at(id)
	head, at, _ := s.ofClient(f.conn.Client.Addr())
	switch {
	case f.prev != 0:
		s.at(f.prev - 1).next = f.next
		s.at(head).siblings--
	case f.next != 0:
		s.at(f.next - 1).siblings = f.siblings - 1
		s.clients.set(at, uint32(f.next-1))
	default:
		s.clients.remove(at)
	}
	if f.next != 0 {
		s.at(f.next - 1).prev = f.prev
	}
	*f = flow{}
	s.free = append(s.free, id)
	s.open--
}

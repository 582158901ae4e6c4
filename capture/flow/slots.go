package flow

import (
	"relaygate/authz"
	"relaygate/capture"
)

// phase is the state of a slot.
type phase uint8

const (
	free phase = iota
	// following: the streams are read.
	following
	// lingering: a flow of a file ended, or is in doubt from here on. Late copies of the
	// client's bytes are compared up to the next Feed.
	lingering
	// held: the same up to Forget, as a login was proved, and the server's answer with them.
	held
	// finished: a verdict was reached or the flow is tainted; only its end
	// is waited for.
	finished
)

// flow is a slot: one connection. What is asked for with each segment stands
// together, in few lines of the cache.
type flow struct {
	tuple // hash of files only

	// The two streams: the next byte to release, and where each began.
	clientNext, clientISN uint32
	serverNext, serverISN uint32
	serverEnd             uint32 // the highest sequence number that a segment showed

	guard  guard // of files
	phase  phase
	origin authz.Origin
	closed bool // Closed was told
	// A FIN of the client is a candidate until it was acknowledged.
	hasClientFIN, hasServerFIN bool
	// hasClientPast: a candidate was too far ahead to keep.
	hasClientPast bool
	// single is how many bytes of the client wait, if one segment brought all of
	// them; else 0.
	single int32
	// aborted: an RST came from the client's address, and no segment of the
	// server since (files). reset: it came where the server's kernel may have taken it.
	aborted, reset bool

	client, server *window // nil while nothing waits
	said           *window // what the server said (files): see saidAgain; nil if not all of it is known
	last           int64   // time of the last segment, in Unix nanoseconds (files)

	clientFIN, serverFIN uint32 // where they are, if there are any
	clientPast           uint32 // the lowest candidate that was too far ahead
	reuse                ref    // the ring entry of a SYN inside this flow, 0 for none (files)

	prev, next ID  // the client's other flows, plus one; 0 ends the list
	length     int // in the head of the list: how long it is
}

// reads reports whether what the client sent in f is read.
func (f *flow) reads() bool { return f.phase >= following && f.phase <= held }

// clientDone reports whether the client's FIN was acknowledged.
func (f *flow) clientDone() bool { return f.hasClientFIN && before(f.clientFIN, f.clientNext) }

// pageSize is how many slots are allocated at one time.
const pageSize = 256

// slots holds the flows. A slot never moves.
type slots struct {
	pages   []*[pageSize]flow
	free    []ID
	freed   []ID // not to be taken before recycle: events name them
	hasher  capture.Hasher
	clients index // of the heads of lists
	open    int
}

func (s *slots) at(id ID) *flow {
	return &s.pages[id/pageSize][id%pageSize]
}

// size is the number of slots, used or free.
func (s *slots) size() ID { return ID(len(s.pages) * pageSize) }

// take returns a free slot, linked to its client's others, nil if they are limit
// or more.
func (s *slots) take(k *tuple, limit int) (ID, *flow) {
	client := clientOf(k.conn.Client.Addr())
	hash := client.hash(&s.hasher)
	head, siblings := s.list(client, hash)
	if siblings && s.at(head).length >= limit {
		return 0, nil
	}
	if len(s.free) == 0 {
		s.grow()
	}
	id := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	f := s.at(id)
	*f = flow{}
	f.phase, f.tuple, f.length = following, *k, 1
	if siblings {
		first := s.at(head)
		f.next, first.prev = head+1, id+1
		f.length += first.length
		s.clients.replace(hash, uint32(head), uint32(id))
	} else {
		s.clients.add(hash, uint32(id))
	}
	s.open++
	return id, f
}

func (s *slots) grow() {
	first := s.size()
	s.pages = append(s.pages, new([pageSize]flow))
	for i := ID(pageSize); i > 0; i-- {
		s.free = append(s.free, first+i-1)
	}
}

// release frees a slot. What it held can be read until recycle.
func (s *slots) release(id ID) {
	f := s.at(id)
	client := clientOf(f.conn.Client.Addr())
	hash := client.hash(&s.hasher)
	switch {
	case f.prev != 0:
		s.at(f.prev - 1).next = f.next
		head, _ := s.list(client, hash)
		s.at(head).length--
	case f.next != 0:
		s.at(f.next - 1).length = f.length - 1
		s.clients.replace(hash, uint32(id), uint32(f.next-1))
	default:
		s.clients.remove(hash, uint32(id))
	}
	if f.next != 0 {
		s.at(f.next - 1).prev = f.prev
	}
	f.phase = free
	s.freed = append(s.freed, id)
	s.open--
}

// recycle lets the slots be taken that were freed.
func (s *slots) recycle() {
	s.free = append(s.free, s.freed...)
	s.freed = s.freed[:0]
}

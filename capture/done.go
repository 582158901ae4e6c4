package capture

// DoneSet holds the connections of a capture of which nothing more is to be
// said: a verdict ended their reading, or they ended themselves. The table of
// flows fills it, and a Decoder that shares it passes over their packets, as the
// kernel's program does on a live tap.
//
// It knows connections by a keyed hash of 64 bits. Two that share one would cost
// the second its reading, never a false login. It belongs to one goroutine.
type DoneSet struct {
	// recent are those of which packets may still come, and few of them: most
	// packets of a capture are looked up here, so it must fit in a cache.
	recent hashSet
	// ended are those of which something late may come, the oldest at order[at].
	ended hashSet
	order []uint64
	at    int
	// tried is the second in which recent was last found full.
	tried uint32
	full  bool
	kept  []hashSlot // for makeRoom
}

const (
	doneSlots    = 1 << 10
	maxDoneSlots = 1 << 17 // twice the flows that are followed at one time
	// doneEndings is how many connections are remembered behind their ends.
	doneEndings = 1 << 14
	// doneIdle is the silence, in seconds, after which a connection without an
	// end is forgotten: an IMAP server waits 30 minutes (RFC 9051 §5.4).
	doneIdle = 35 * 60
	// doneLinger is how long, in seconds, one that has ended is among the recent.
	doneLinger = 2
	// doneRetry is how long, in seconds, a full set looks for no room again.
	doneRetry = 60
)

// Add takes a connection, and reports false if there is no room. Its packets
// have nothing more to say.
func (s *DoneSet) Add(hash uint64, second int64) bool { return s.add(hash, second, false) }

// End takes a connection that ended. What comes late is no news.
func (s *DoneSet) End(hash uint64, second int64) {
	if !s.add(hash, second, true) {
		s.remember(hash)
	}
}

// Lift takes a connection out: another one began between the same ends.
func (s *DoneSet) Lift(hash uint64) { s.recent.remove(hash) }

// Clear empties the set.
func (s *DoneSet) Clear() { *s = DoneSet{} }

// Has reports whether a connection is in the set.
func (s *DoneSet) Has(hash uint64) bool {
	return s.recent.find(hash) != nil || s.ended.find(hash) != nil
}

// passesOver reports whether a packet is to be passed over. A SYN never is: it can
// be another's beginning. Nor is an RST: it shows who is there.
func (s *DoneSet) passesOver(hash uint64, flags Flags, second int64) bool {
	slot := s.recent.find(hash)
	if slot == nil || flags&SYN != 0 {
		return false
	}
	slot.seen = uint32(second)
	slot.ended = slot.ended || flags&(FIN|RST) != 0
	return flags&RST == 0
}

func (s *DoneSet) add(hash uint64, second int64, ended bool) bool {
	if 2*s.recent.used >= len(s.recent.slots) && !s.makeRoom(uint32(second)) {
		return false
	}
	slot := s.recent.put(hash)
	slot.seen, slot.ended = uint32(second), ended
	return true
}

// makeRoom moves out those that are recent no more, and grows the set if that is
// not enough.
func (s *DoneSet) makeRoom(second uint32) bool {
	if s.full && second-s.tried < doneRetry {
		return false // it costs a walk over all slots
	}
	kept := s.kept[:0]
	for _, slot := range s.recent.slots {
		silence := int32(second - slot.seen)
		silence = max(silence, -silence) // a file's clock can also go back
		switch {
		case slot.hash == 0, silence > doneIdle:
		case slot.ended && silence > doneLinger:
			s.remember(slot.hash)
		default:
			kept = append(kept, slot)
		}
	}
	size := max(len(s.recent.slots), doneSlots)
	crowded := 3*len(kept) >= size
	if crowded && size < maxDoneSlots {
		size, crowded = 2*size, false
	}
	s.full, s.tried = crowded, second
	s.kept = kept
	s.recent.reset(size)
	for _, slot := range kept {
		*s.recent.put(slot.hash) = slot
	}
	return !crowded
}

// remember keeps a connection behind its end, and forgets the oldest.
func (s *DoneSet) remember(hash uint64) {
	if s.order == nil {
		s.order = make([]uint64, doneEndings)
		s.ended.reset(2 * doneEndings)
	}
	if s.ended.find(hash) != nil {
		return
	}
	s.ended.remove(s.order[s.at])
	s.ended.put(hash)
	s.order[s.at] = hash
	s.at = (s.at + 1) % doneEndings
}

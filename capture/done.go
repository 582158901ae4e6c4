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
	// tried is when recent was last found full.
	tried stamp
	full  bool
	kept  []kept // for makeRoom
}

// kept is a connection that stays among the recent.
type kept struct {
	hash uint64
	seen stamp
}

const (
	doneSlots    = 1 << 10
	maxDoneSlots = 1 << 18 // room for as many flows as are followed at one time
	// doneSpace is how many places there are for each connection: most of those
	// looked up are not there, which a place that is free shows at once.
	doneSpace = 4
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
func (s *DoneSet) Add(hash uint64, second int64) bool { return s.add(hash, stampOf(second)) }

// End takes a connection that ended. What comes late is no news.
func (s *DoneSet) End(hash uint64, second int64) {
	if !s.add(hash, stampOf(second)|1) {
		s.remember(hash)
	}
}

// Lift takes a connection out: another one began between the same ends.
func (s *DoneSet) Lift(hash uint64) { s.recent.remove(hash) }

// Clear empties the set.
func (s *DoneSet) Clear() { *s = DoneSet{} }

// Has reports whether a connection is in the set.
func (s *DoneSet) Has(hash uint64) bool {
	_, found := s.recent.find(hash)
	if !found {
		_, found = s.ended.find(hash)
	}
	return found
}

// PassesOver reports whether a packet is to be passed over. A SYN never is: it can
// be another's beginning. Nor is an RST: it shows who is there.
func (s *DoneSet) PassesOver(hash uint64, flags Flags, second int64) bool {
	return s.passage(hash, flags, second) == passed
}

// passage is what becomes of a packet.
type passage uint8

const (
	// shown: its connection is not in the set.
	shown passage = iota
	// shownStill: its connection is, but it may begin another.
	shownStill
	// passed: it is passed over.
	passed
)

func (s *DoneSet) passage(hash uint64, flags Flags, second int64) passage {
	at, found := s.recent.find(hash)
	if !found {
		return shown
	}
	if flags&SYN != 0 {
		return shownStill
	}
	seen := &s.recent.seen[at]
	*seen = stampOf(second) | *seen&1
	if flags&(FIN|RST) != 0 {
		*seen |= 1
	}
	if flags&RST != 0 {
		return shownStill
	}
	return passed
}

func (s *DoneSet) add(hash uint64, now stamp) bool {
	if doneSpace*s.recent.used >= len(s.recent.hashes) && !s.makeRoom(now) {
		return false
	}
	s.recent.seen[s.recent.put(hash)] = now
	return true
}

// makeRoom moves out those that are recent no more, and grows the set if that is
// not enough.
func (s *DoneSet) makeRoom(now stamp) bool {
	if s.full && now.since(s.tried) < doneRetry {
		return false // it costs a walk over all places
	}
	stay := s.kept[:0]
	for at, hash := range s.recent.hashes {
		if hash == 0 {
			continue
		}
		seen := s.recent.seen[at]
		switch silence := now.since(seen); {
		case silence > doneIdle:
		case seen.ended() && silence > doneLinger:
			s.remember(hash)
		default:
			stay = append(stay, kept{hash, seen})
		}
	}
	size := max(len(s.recent.hashes), doneSlots)
	crowded := doneSpace*len(stay)*3/2 >= size
	if crowded && size < maxDoneSlots {
		size, crowded = 2*size, false
	}
	s.full, s.tried, s.kept = crowded, now, stay
	s.recent.reset(size, true)
	for _, k := range stay {
		s.recent.seen[s.recent.put(k.hash)] = k.seen
	}
	return !crowded
}

// remember keeps a connection behind its end, and forgets the oldest.
func (s *DoneSet) remember(hash uint64) {
	if s.order == nil {
		s.order = make([]uint64, doneEndings)
		s.ended.reset(2*doneEndings, false)
	}
	s.ended.remove(s.order[s.at])
	s.ended.put(hash)
	s.order[s.at] = hash
	s.at = (s.at + 1) % doneEndings
}

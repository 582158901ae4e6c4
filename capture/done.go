package capture

import "time"

// DoneSet holds the connections of a capture of which nothing more is to be
// said: a verdict ended their reading, or they ended themselves. The table of
// flows fills it, and a Decoder that shares it passes over their packets, as the
// kernel's program does on a live tap.
//
// It knows connections by 44 bits of a keyed hash. Two that share them would cost
// the second its reading, never a false login; before that its handshake lifts the
// first out. It belongs to one goroutine.
type DoneSet struct {
	// recent are those of which packets may still come, and few of them: most
	// packets of a capture are looked up here, so it must fit in a cache.
	recent hashSet
	// leaving[first:] are those of the recent that have ended, with the stamp of
	// when that was seen, in that order.
	leaving []uint64
	first   int
	// ended are those of which something late may come.
	ended endings
	// tried is when recent was last found full, refused how many found it so, and
	// walked the places that were looked at for them.
	tried           stamp
	full            bool
	refused, walked int
	kept            []place // for makeRoom
	// fresh has a bit for each that was taken since packets were decoded last, of 64 by
	// its hash: all of them where these were not looked up.
	fresh uint64
}

// Idle is the silence after which a connection of a file is given up that has not ended:
// an IMAP server waits 30 minutes (RFC 9051 §5.4).
const Idle = doneIdle * time.Second

const (
	doneSlots    = 1 << 10
	maxDoneSlots = 1 << 19 // room for as many flows as are followed at one time
	// doneSpace is how many places there are for each connection: most of those
	// looked up are not there, which a place that is free shows at once.
	doneSpace = 4
	// doneIdle is Idle in seconds.
	doneIdle = 35 * 60
	// doneLinger is how long, in seconds, one that has ended is among the recent,
	// and maxLeaving how many of them are, where a file's clock stands still.
	doneLinger = 2
	maxLeaving = maxDoneSlots / doneSpace
	// doneRetry is how long, in seconds, a full set looks for no room again.
	doneRetry = 60
	// Whoever finds it full pays for placesPerRefusal places that are looked at, and
	// freePlaces may be before: a file's clock that goes to and fro would have them
	// all looked at each time.
	placesPerRefusal = 32
	freePlaces       = 16 * maxDoneSlots
)

// Add takes a connection, and reports false if there is no room. Its packets
// have nothing more to say.
func (s *DoneSet) Add(hash uint64, second int64) bool { return s.add(hash, second, 0, 0) }

// AddHeld takes a connection like Add, if there is room, but for what its client sent
// before the sequence number next, and for answers: other copies of those are not passed
// over until Release.
func (s *DoneSet) AddHeld(hash uint64, second int64, next uint32, ended bool) {
	if s.add(hash, second, stampHeld, next) && ended {
		at, _ := s.recent.find(hash)
		s.leave(at)
	}
}

// Release ends that. It reports false if the connection is not in the set any more.
func (s *DoneSet) Release(hash uint64) bool {
	at, found := s.recent.find(hash)
	if found {
		s.recent.slots[at] &^= uint64(stampHeld)
	}
	return found
}

// Ask notes a SYN of a client between the ends of a connection in the set, if it is there.
// Until its answer lifts that out, or for doneLinger, nothing is passed over: a file can
// show what follows before the answer.
func (s *DoneSet) Ask(hash uint64, second int64) {
	if at, found := s.recent.find(hash); found {
		slot := &s.recent.slots[at]
		*slot = *slot&^stampMask | uint64(stampOf(second)|stampIn(*slot)&stampState|stampAsked)
	}
}

// maxAnswer is how long an answer to a login is at most that is compared, in bytes: bulk
// passes by.
const maxAnswer = 512

// compares reports whether a segment of a connection that is held may show what was read
// otherwise: bytes that its client sent before the next, or an answer or end of its server.
func (s *DoneSet) compares(hash uint64, toServer bool, seq uint32, length int, flags Flags) bool {
	if !toServer {
		return length > 0 && length <= maxAnswer || flags&FIN != 0
	}
	at, found := s.recent.find(hash)
	return length > 0 && found && int32(seq-s.recent.late[at]) < 0
}

func (s *DoneSet) add(hash uint64, second int64, state stamp, late uint32) bool {
	now := stampOf(second)
	s.retire(now)
	if doneSpace*s.recent.used >= len(s.recent.slots) && !s.makeRoom(now) {
		return false
	}
	s.recent.put(hash, now|state, late)
	s.fresh |= freshBit(hash)
	return true
}

// End takes a connection that ended. What comes late is no news.
func (s *DoneSet) End(hash uint64, second int64) {
	if !s.Add(hash, second) {
		s.ended.remember(key(hash))
		return
	}
	at, _ := s.recent.find(hash)
	s.leave(at)
}

// Lift takes a connection out: another one began between the same ends.
func (s *DoneSet) Lift(hash uint64) { s.recent.remove(hash) }

// Changed reports whether a connection may have been taken since packets were decoded last.
func (s *DoneSet) Changed(hash uint64) bool { return s.fresh&freshBit(hash) != 0 }

func freshBit(hash uint64) uint64 { return 1 << (hash >> 58) }

// Clear empties the set.
func (s *DoneSet) Clear() { *s = DoneSet{} }

// Has reports whether a connection is in the set.
func (s *DoneSet) Has(hash uint64) bool {
	_, found := s.recent.find(hash)
	return found || s.ended.has(key(hash))
}

// PassesOver reports whether a segment that was decoded is to be passed over, as the
// Decoder would by what the set holds now. A SYN never is: it can be another's beginning.
// Nor is an RST: it shows who is there.
func (s *DoneSet) PassesOver(seg *Segment, toServer bool, second int64) bool {
	switch s.passage(seg.Hash, seg.Flags, second) {
	case passed:
		return true
	case passedHeld:
		return !s.compares(seg.Hash, toServer, seg.Seq, len(seg.Payload)+seg.Missing, seg.Flags)
	case shown, shownStill:
	}
	return false
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
	// passedHeld: so it is, unless it holds bytes that are to be compared.
	passedHeld
)

func (s *DoneSet) passage(hash uint64, flags Flags, second int64) passage {
	at, found := s.recent.find(hash)
	if !found {
		return shown
	}
	if flags&SYN != 0 {
		return shownStill
	}
	slot := &s.recent.slots[at]
	now, was := stampOf(second), stampIn(*slot)
	if was&stampAsked != 0 && now.since(was) <= doneLinger {
		return shown
	}
	*slot = *slot&^stampMask | uint64(now|was&stampState&^stampAsked)
	if flags&(FIN|RST) != 0 {
		s.leave(at)
	}
	if flags&RST != 0 {
		return shownStill
	}
	return passed + passage(stampIn(*slot)&stampHeld/stampHeld)
}

// leave notes that a connection has ended.
func (s *DoneSet) leave(at int) {
	slot := &s.recent.slots[at]
	if stampIn(*slot)&stampEnded != 0 {
		return
	}
	*slot |= uint64(stampEnded)
	if s.first > len(s.leaving)/2 {
		s.leaving = s.leaving[:copy(s.leaving, s.leaving[s.first:])]
		s.first = 0
	}
	s.leaving = append(s.leaving, *slot)
}

// retire moves those out of the recent that ended a while ago.
func (s *DoneSet) retire(now stamp) {
	for s.first < len(s.leaving) {
		crowded := len(s.leaving)-s.first > maxLeaving
		left := s.leaving[s.first]
		if now.since(stampIn(left)) <= doneLinger && !crowded {
			return
		}
		s.first++
		at, found := s.recent.find(left)
		if !found || stampIn(s.recent.slots[at])&stampEnded == 0 {
			continue // it was lifted out
		}
		if slot := s.recent.slots[at]; now.since(stampIn(slot)) <= doneLinger && !crowded {
			s.leaving = append(s.leaving, slot) // it still has something to say
			continue
		}
		s.recent.removeAt(at)
		s.ended.remember(left)
	}
}

// makeRoom forgets those that are silent for long, and grows the set if that is
// not enough.
func (s *DoneSet) makeRoom(now stamp) bool {
	if s.full {
		s.refused++
		if now.since(s.tried) < doneRetry || s.walked > placesPerRefusal*s.refused+freePlaces {
			return false // it costs a walk over all places
		}
		s.walked += len(s.recent.slots)
	}
	stay := s.kept[:0]
	for at, slot := range s.recent.slots {
		if slot != 0 && now.since(stampIn(slot)) <= doneIdle {
			stay = append(stay, place{slot, s.recent.late[at]})
		}
	}
	size := max(len(s.recent.slots), doneSlots)
	crowded := doneSpace*len(stay)*3/2 >= size
	if crowded && size < maxDoneSlots {
		size, crowded = 2*size, false
	}
	s.full, s.tried, s.kept = crowded, now, stay
	if !crowded {
		s.refused, s.walked = 0, 0
	}
	s.recent.reset(size)
	for _, p := range stay {
		s.recent.put(p.slot, stampIn(p.slot), p.late)
	}
	return !crowded
}

// endings are connections that ended. Each has its row by a part of its hash,
// which holds as many as fit in a line of the cache, the latest first: what comes
// pushes out the oldest.
type endings []endingsRow

type endingsRow [16]uint32

// doneEndings is how many rows there are. Of the last 16,384 connections that
// ended less than one in a hundred is forgotten.
const doneEndings = 1 << 11

// row is where a key's is, and what it would hold of it, which is never 0.
func (e endings) row(key uint64) (*endingsRow, uint32) {
	return &e[key>>20&(doneEndings-1)], uint32(key >> 32)
}

func (e *endings) remember(key uint64) {
	if *e == nil {
		*e = make(endings, doneEndings)
	}
	row, mark := e.row(key)
	copy(row[1:], row[:])
	row[0] = mark
}

func (e endings) has(key uint64) bool {
	if e == nil {
		return false
	}
	row, mark := e.row(key)
	for _, m := range row {
		if m == mark {
			return true
		}
	}
	return false
}

package capture

// doneSet holds the connections of a file of which nothing more is to be read,
// as the kernel's table of flows does on a live tap. It knows them by a keyed
// hash of 64 bits. Two connections that share one would cost the second its
// reading, never a false login.
type doneSet struct {
	slots []doneSlot // a power of 2, linear probing
	used  int
	// tried is the second in which the full set last found nothing to forget.
	tried int64
	full  bool
}

type doneSlot struct {
	hash uint64 // 0: free
	// passed is the second in which a packet was last handed on.
	passed int64
}

const (
	doneSlots    = 1 << 10
	maxDoneSlots = 1 << 17 // twice the flows that are followed at one time
	// donePause is how long packets are held back, in seconds. Then one passes,
	// so that the flow is not taken for idle.
	donePause = 60
)

// find returns the slot of a hash, or the free one where it would be.
func (s *doneSet) find(hash uint64) *doneSlot {
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if slot := &s.slots[i]; slot.hash == hash || slot.hash == 0 {
			return slot
		}
	}
}

// add notes that a connection is done. A full set takes no more: then packets
// pass which have nothing to say.
func (s *doneSet) add(hash uint64, second int64) {
	hash |= 1 << 63 // never 0
	if s.used*2 >= len(s.slots) && !s.grow(second) {
		return
	}
	slot := s.find(hash)
	if slot.hash == 0 {
		s.used++
	}
	*slot = doneSlot{hash, second}
}

// grow makes room, and forgets the connections of which nothing was heard.
func (s *doneSet) grow(second int64) bool {
	if s.full && uint64(second-s.tried) < donePause {
		return false // a search costs a walk over all slots
	}
	old := s.slots
	kept := 0
	for _, slot := range old {
		if slot.hash != 0 && slot.recent(second, 2*donePause) {
			kept++
		}
	}
	size := max(len(old), doneSlots)
	if kept*4 >= size {
		size *= 2
	}
	if s.full, s.tried = size > maxDoneSlots, second; s.full {
		return false
	}
	s.slots, s.used = make([]doneSlot, size), kept
	for _, slot := range old {
		if slot.hash != 0 && slot.recent(second, 2*donePause) {
			*s.find(slot.hash) = slot
		}
	}
	return true
}

// recent tells whether a packet passed in the last so many seconds. The clock of
// a file can go back.
func (s *doneSlot) recent(second, span int64) bool {
	return uint64(second-s.passed) < uint64(span)
}

// holds tells whether a packet is held back. A SYN, FIN or RST passes, and ends
// the silence: it can be the connection's end, or another's beginning.
func (s *doneSet) holds(hash uint64, flags Flags, second int64) bool {
	if s.used == 0 {
		return false
	}
	slot := s.find(hash | 1<<63)
	switch {
	case slot.hash == 0:
		return false
	case flags&(SYN|FIN|RST) != 0:
		s.remove(slot)
		return false
	case !slot.recent(second, donePause):
		slot.passed = second
		return false
	}
	return true
}

// remove frees a slot, and moves up those behind it that would be lost.
func (s *doneSet) remove(slot *doneSlot) {
	mask := uint64(len(s.slots) - 1)
	gap := slot.hash & mask
	for &s.slots[gap] != slot {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; s.slots[i].hash != 0; i = (i + 1) & mask {
		if home := s.slots[i].hash & mask; (i-home)&mask >= (i-gap)&mask {
			s.slots[gap] = s.slots[i]
			gap = i
		}
	}
	s.slots[gap] = doneSlot{}
	s.used--
}

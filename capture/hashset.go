package capture

// hashSet is a set of keyed hashes: open addressing with linear probing, half
// full at most.
type hashSet struct {
	slots []hashSlot // a power of 2
	used  int
}

type hashSlot struct {
	hash uint64 // 0: free
	// seen is the Unix time in seconds of the connection's last packet.
	seen  uint32
	ended bool
}

// reset empties the set and makes it of a size, a power of 2.
func (s *hashSet) reset(size int) {
	if s.used = 0; len(s.slots) != size {
		s.slots = make([]hashSlot, size)
		return
	}
	clear(s.slots)
}

// find returns the slot of a hash, nil if there is none.
func (s *hashSet) find(hash uint64) *hashSlot {
	if s.used == 0 {
		return nil
	}
	if slot := s.place(hash); slot.hash != 0 {
		return slot
	}
	return nil
}

// place returns the slot of a hash, or the free one where it would be.
func (s *hashSet) place(hash uint64) *hashSlot {
	hash |= 1 // never 0
	mask := uint64(len(s.slots) - 1)
	for i := hash >> 32; ; i++ {
		if slot := &s.slots[i&mask]; slot.hash == hash || slot.hash == 0 {
			return slot
		}
	}
}

// put returns the slot of a hash, for which there is room.
func (s *hashSet) put(hash uint64) *hashSlot {
	slot := s.place(hash)
	if slot.hash == 0 {
		slot.hash = hash | 1
		s.used++
	}
	return slot
}

// remove frees the slot of a hash, if there is one, and moves up those behind it
// that would be lost.
func (s *hashSet) remove(hash uint64) {
	slot := s.find(hash)
	if slot == nil {
		return
	}
	mask := uint64(len(s.slots) - 1)
	gap := slot.hash >> 32 & mask
	for &s.slots[gap] != slot {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; s.slots[i].hash != 0; i = (i + 1) & mask {
		if home := s.slots[i].hash >> 32 & mask; (i-home)&mask >= (i-gap)&mask {
			s.slots[gap] = s.slots[i]
			gap = i
		}
	}
	s.slots[gap] = hashSlot{}
	s.used--
}

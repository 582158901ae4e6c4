package capture

// hashSet is a set of keyed hashes, each with a stamp, a part of a DoneSet: open
// addressing with linear probing.
type hashSet struct {
	// slots hold what is kept of a hash above its stamp, 0 where one is free; a
	// power of 2.
	slots []uint64
	used  int
	// late[i] goes with slots[i]: the sequence number below which a client's bytes are
	// still compared, where they are.
	late []uint32
}

// place is what a hashSet holds of one connection.
type place struct {
	slot uint64
	late uint32
}

// stamp is a Unix time in seconds, of 16 bits, above a bit that says whether a SYN came
// between the same ends since, one whether copies of what the connection said are
// still compared, and one whether it has ended. Times are half a day apart at most; one that is
// more looks younger than it is.
type stamp uint64

const (
	stampEnded stamp  = 1
	stampHeld  stamp  = 2
	stampAsked stamp  = 4
	stampState        = stampEnded | stampHeld | stampAsked
	stampMask  uint64 = 1<<19 - 1
)

func stampOf(second int64) stamp { return stamp(uint16(second)) << 3 }

// since is the time since then in seconds. A file's clock can also go back.
func (s stamp) since(then stamp) int {
	d := int(int16(s>>3 - then>>3))
	return max(d, -d)
}

// key is what is kept of a hash: 44 bits of it. It is never 0.
func key(hash uint64) uint64 { return hash&^stampMask | 1<<63 }

// stampIn is the stamp of a slot.
func stampIn(slot uint64) stamp { return stamp(slot & stampMask) }

// reset empties the set and makes it of a size, a power of 2.
func (s *hashSet) reset(size int) {
	if s.used = 0; len(s.slots) == size {
		clear(s.slots)
		clear(s.late)
		return
	}
	s.slots, s.late = make([]uint64, size), make([]uint32, size)
}

// home is the place where to look first for a key.
func (s *hashSet) home(key uint64) int { return int(key>>32) & (len(s.slots) - 1) }

// find returns the place of a hash, or the free one where it would be.
func (s *hashSet) find(hash uint64) (at int, found bool) {
	if len(s.slots) == 0 {
		return 0, false
	}
	k := key(hash)
	for at = s.home(k); s.slots[at] != 0; at = (at + 1) & (len(s.slots) - 1) {
		if s.slots[at]^k <= stampMask {
			return at, true
		}
	}
	return at, false
}

// put stamps a hash, for which there must be room.
func (s *hashSet) put(hash uint64, seen stamp, late uint32) {
	at, found := s.find(hash)
	if !found {
		s.used++
	}
	s.slots[at], s.late[at] = key(hash)|uint64(seen), late
}

// remove takes a hash out, if it is there.
func (s *hashSet) remove(hash uint64) {
	if at, found := s.find(hash); found {
		s.removeAt(at)
	}
}

// removeAt frees a place, and moves up those behind it that would be lost.
func (s *hashSet) removeAt(gap int) {
	mask := len(s.slots) - 1
	for i := (gap + 1) & mask; s.slots[i] != 0; i = (i + 1) & mask {
		if home := s.home(s.slots[i]); (i-home)&mask >= (i-gap)&mask {
			s.slots[gap], s.late[gap] = s.slots[i], s.late[i]
			gap = i
		}
	}
	s.slots[gap] = 0
	s.used--
}

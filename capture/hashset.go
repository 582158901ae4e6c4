package capture

// hashSet is a set of keyed hashes, a part of a DoneSet: open addressing with
// linear probing.
type hashSet struct {
	hashes []uint64 // 0: free; a power of 2
	// seen is, by place, when a packet last came; nil where nobody asks.
	seen []stamp
	used int
}

// stamp is a Unix time in seconds, of 31 bits, above a bit that says whether the
// connection has ended.
type stamp uint32

func stampOf(second int64) stamp { return stamp(second << 1) }

// since is the time since then in seconds. A file's clock can also go back.
func (s stamp) since(then stamp) int32 {
	d := int32(s&^1-then&^1) / 2
	return max(d, -d)
}

func (s stamp) ended() bool { return s&1 != 0 }

// reset empties the set and makes it of a size, a power of 2.
func (s *hashSet) reset(size int, stamped bool) {
	if s.used = 0; len(s.hashes) == size {
		clear(s.hashes)
		return
	}
	s.hashes = make([]uint64, size)
	if stamped {
		s.seen = make([]stamp, size)
	}
}

// key is what is kept of a hash: never 0.
func key(hash uint64) uint64 { return hash | 1 }

// home is the place where to look first for a key.
func (s *hashSet) home(key uint64) int { return int(key>>32) & (len(s.hashes) - 1) }

// find returns the place of a hash, or the free one where it would be.
func (s *hashSet) find(hash uint64) (at int, found bool) {
	if len(s.hashes) == 0 {
		return 0, false
	}
	k := key(hash)
	for at = s.home(k); s.hashes[at] != 0; at = (at + 1) & (len(s.hashes) - 1) {
		if s.hashes[at] == k {
			return at, true
		}
	}
	return at, false
}

// put returns the place of a hash, for which there must be room.
func (s *hashSet) put(hash uint64) (at int) {
	at, found := s.find(hash)
	if !found {
		s.hashes[at] = key(hash)
		s.used++
	}
	return at
}

// remove takes a hash out, if it is there, and moves up those behind it that
// would be lost.
func (s *hashSet) remove(hash uint64) {
	gap, found := s.find(hash)
	if !found {
		return
	}
	mask := len(s.hashes) - 1
	for i := (gap + 1) & mask; s.hashes[i] != 0; i = (i + 1) & mask {
		if home := s.home(s.hashes[i]); (i-home)&mask >= (i-gap)&mask {
			s.hashes[gap] = s.hashes[i]
			if s.seen != nil {
				s.seen[gap] = s.seen[i]
			}
			gap = i
		}
	}
	s.hashes[gap] = 0
	s.used--
}

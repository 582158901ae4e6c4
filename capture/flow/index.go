package flow

// index finds the number of an entry by the hash of its key. It holds the
// numbers alone, eight bytes each with a part of the hash; whoever looks up
// compares the key that the entry itself holds. Strangers choose the keys: the
// hash must be keyed.
type index struct {
	slots []slot // a power of 2, linear probing
	used  int
}

// slot holds a number and its tag: tag<<32 | number+1. One that is free is 0.
type slot uint64

const (
	freeSlot   slot = 0
	indexSlots      = 1 << 10
)

// tag is what a slot keeps of a hash. Its lower bits are also the slot's home,
// where to look for it first.
func tag(hash uint64) uint32 { return uint32(hash >> 32) }

// slotOf is what stands for a number under a hash.
func slotOf(hash uint64, number uint32) slot { return slot(tag(hash))<<32 | slot(number+1) }

func (s slot) tag() uint32    { return uint32(s >> 32) }
func (s slot) number() uint32 { return uint32(s) - 1 }

// at returns the slot at place i, which wraps around. Look from the tag of a hash
// on: up to a free slot, those of the same tag are candidates.
func (x *index) at(i uint32) slot {
	if len(x.slots) == 0 {
		return freeSlot
	}
	return x.slots[int(i)&(len(x.slots)-1)]
}

func (x *index) mask() uint32 { return uint32(len(x.slots) - 1) }

// place returns where a number is under a hash, false if it is not there.
func (x *index) place(hash uint64, number uint32) (at uint32, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	mask, want := x.mask(), slotOf(hash, number)
	for at = tag(hash) & mask; x.slots[at] != freeSlot; at = (at + 1) & mask {
		if x.slots[at] == want {
			return at, true
		}
	}
	return 0, false
}

// replace puts another number in the place of one that is there.
func (x *index) replace(hash uint64, number, by uint32) {
	if at, ok := x.place(hash, number); ok {
		x.slots[at] = slotOf(hash, by)
	}
}

// add adds a number under a hash, of a key that is not there.
func (x *index) add(hash uint64, number uint32) {
	if 2*x.used >= len(x.slots) {
		x.grow()
	}
	x.put(slotOf(hash, number))
	x.used++
}

func (x *index) put(s slot) {
	mask := x.mask()
	i := s.tag() & mask
	for x.slots[i] != freeSlot {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

func (x *index) grow() {
	old := x.slots
	x.slots = make([]slot, max(2*len(old), indexSlots))
	for _, s := range old {
		if s != freeSlot {
			x.put(s)
		}
	}
}

// remove takes a number out, if it is there, and moves up those behind it that
// would be lost.
func (x *index) remove(hash uint64, number uint32) {
	gap, ok := x.place(hash, number)
	if !ok {
		return
	}
	mask := x.mask()
	for i := (gap + 1) & mask; x.slots[i] != freeSlot; i = (i + 1) & mask {
		home := x.slots[i].tag() & mask
		if (i-home)&mask >= (i-gap)&mask {
			x.slots[gap] = x.slots[i]
			gap = i
		}
	}
	x.slots[gap] = freeSlot
	x.used--
}

func (x *index) clear() {
	clear(x.slots)
	x.used = 0
}

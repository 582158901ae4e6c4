package flow

// index finds the number of an entry by the hash of its key. It holds the
// numbers alone, eight bytes each with a part of the hash; whoever looks up
// compares the key that the entry itself holds. Strangers choose the keys: the
// hash must be keyed.
type index struct {
	slots []uint64 // tag<<32 | number+1, 0: free; a power of 2, linear probing
	used  int
}

const indexSlots = 1 << 10

// tag is what a slot keeps of a hash. Its lower bits are also the slot's home.
func tag(hash uint64) uint32 { return uint32(hash >> 32) }

func (x *index) mask() uint32 { return uint32(len(x.slots) - 1) }

// next returns the number of the next candidate for a hash, at or behind place i.
// Begin with home; after a candidate that was another's, go on at+1.
func (x *index) next(hash uint64, i uint32) (at, number uint32, ok bool) {
	if len(x.slots) == 0 {
		return 0, 0, false
	}
	for mask, want := x.mask(), tag(hash); ; i++ {
		s := x.slots[i&mask]
		if s == 0 {
			return 0, 0, false
		}
		if uint32(s>>32) == want {
			return i & mask, uint32(s) - 1, true
		}
	}
}

// home is where to look first.
func home(hash uint64) uint32 { return tag(hash) }

// slot is what stands for a number under a hash.
func slot(hash uint64, number uint32) uint64 { return uint64(tag(hash))<<32 | uint64(number+1) }

// place returns where a number is under a hash, false if it is not there.
func (x *index) place(hash uint64, number uint32) (at uint32, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	mask, want := x.mask(), slot(hash, number)
	for at = home(hash) & mask; x.slots[at] != 0; at = (at + 1) & mask {
		if x.slots[at] == want {
			return at, true
		}
	}
	return 0, false
}

// replace puts another number in the place of one that is there.
func (x *index) replace(hash uint64, number, by uint32) {
	if at, ok := x.place(hash, number); ok {
		x.slots[at] = slot(hash, by)
	}
}

// add adds a number under a hash, of a key that is not there.
func (x *index) add(hash uint64, number uint32) {
	if 2*x.used >= len(x.slots) {
		x.grow()
	}
	x.put(slot(hash, number))
	x.used++
}

func (x *index) put(s uint64) {
	mask := x.mask()
	i := uint32(s>>32) & mask
	for x.slots[i] != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

func (x *index) grow() {
	old := x.slots
	x.slots = make([]uint64, max(2*len(old), indexSlots))
	for _, s := range old {
		if s != 0 {
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
	for i := (gap + 1) & mask; x.slots[i] != 0; i = (i + 1) & mask {
		home := uint32(x.slots[i]>>32) & mask
		if (i-home)&mask >= (i-gap)&mask {
			x.slots[gap] = x.slots[i]
			gap = i
		}
	}
	x.slots[gap] = 0
	x.used--
}

func (x *index) clear() {
	clear(x.slots)
	x.used = 0
}

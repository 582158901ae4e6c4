package authz

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"strings"
)

// names is a set of user names without regard to case, each kept as it was put
// in first. Many names are one block of text without pointers, and no block ever
// moves.
//
// Names are told apart by 38 bits of a keyed hash when they are put in: of two that
// share them the second is taken for known, and get does not know it.
type names struct {
	seed   maphash.Seed
	slots  []nameSlot // a power of 2
	blocks []*[nameBlock]byte
	used   int // of the blocks: of each name its length in two bytes, then itself
	n      int
	most   int // how many may be put in
	// late[:lates] are still to be put in, refused those for which there was no room.
	late    [lateNames]lateName
	lates   int
	refused uint64
}

// lateName is a name that is put in with others: each look at a slot misses the
// processor's cache, and those of several names miss it at one time.
type lateName struct {
	hash uint64
	name string
}

const (
	nameSlots = 256
	nameBlock = 1 << 16
	lateNames = 16
)

// nameSlot says of a name where it begins in the blocks, plus one, and above that the
// upper bits of its hash. It is 0 if free.
type nameSlot uint64

const beginMask nameSlot = 1<<26 - 1

func (s nameSlot) begin() int              { return int(s&beginMask) - 1 }
func (s nameSlot) shares(hash uint64) bool { return s != 0 && (s^nameSlot(hash))&^beginMask == 0 }

// folded is room for a name that is looked up.
type folded [UserLimit]byte

// fold writes name in lower case to f, where there is room.
func (f *folded) fold(name string) []byte {
	b := f[:0]
	for i := range len(name) {
		c := name[i]
		if c >= 0x80 {
			return append(f[:0], strings.ToLower(name)...)
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// find returns the slot of a hash, or the free one where it would be.
func (s *names) find(hash uint64) *nameSlot {
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if slot := &s.slots[i]; *slot == 0 || slot.shares(hash) {
			return slot
		}
	}
}

func (s *names) hash(lower []byte) uint64 { return maphash.Bytes(s.seed, lower) }

func (s *names) at(begin int) []byte {
	entry := s.blocks[begin/nameBlock][begin%nameBlock:]
	return entry[2 : 2+int(binary.NativeEndian.Uint16(entry))]
}

// get returns a name as it was put in, "" if it was not.
func (s *names) get(name string) string {
	s.settle()
	if s.n == 0 {
		return ""
	}
	var f, other folded
	lower := f.fold(name)
	slot := s.find(s.hash(lower))
	if *slot == 0 {
		return ""
	}
	proved := string(s.at(slot.begin()))
	if !bytes.Equal(other.fold(proved), lower) {
		return ""
	}
	return proved
}

// put puts in a name of at most UserLimit bytes, if it is not there.
func (s *names) put(name string) {
	if s.slots == nil {
		s.seed, s.slots = maphash.MakeSeed(), make([]nameSlot, nameSlots)
	}
	if s.lates == lateNames {
		s.settle()
	}
	var f folded
	s.late[s.lates] = lateName{s.hash(f.fold(name)), name}
	s.lates++
}

// settle puts in the names that are late.
func (s *names) settle() {
	late := s.late[:s.lates]
	var homes [lateNames]nameSlot
	for i := range late {
		homes[i] = s.slots[late[i].hash&uint64(len(s.slots)-1)]
	}
	for i := range late {
		if l := &late[i]; !homes[i].shares(l.hash) {
			s.insert(l.hash, l.name)
		}
	}
	clear(late)
	s.lates = 0
}

func (s *names) insert(hash uint64, name string) {
	if 2*s.n >= len(s.slots) && s.n < s.most {
		s.grow()
	}
	slot := s.find(hash)
	size := 2 + len(name)
	switch {
	case *slot != 0:
		return
	case s.n >= s.most || s.used+size > int(beginMask):
		s.refused++
		return
	}
	if full := len(s.blocks) * nameBlock; s.used+size > full {
		s.blocks, s.used = append(s.blocks, new([nameBlock]byte)), full
	}
	*slot = nameSlot(hash)&^beginMask | nameSlot(s.used+1)
	entry := s.blocks[s.used/nameBlock][s.used%nameBlock:]
	binary.NativeEndian.PutUint16(entry, uint16(len(name)))
	copy(entry[2:], name)
	s.used += size
	s.n++
}

func (s *names) grow() {
	old := s.slots
	s.slots = make([]nameSlot, 2*len(old))
	var f folded
	for _, slot := range old {
		if slot != 0 {
			*s.find(s.hash(f.fold(string(s.at(slot.begin()))))) = slot
		}
	}
}

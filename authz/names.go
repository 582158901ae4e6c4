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
type names struct {
	seed   maphash.Seed
	slots  []nameSlot // a power of 2
	blocks []*[nameBlock]byte
	used   int // of the blocks: of each name its length in two bytes, then itself
	n      int
}

// nameSlot says of a name where it begins in the blocks, plus one, and above that its
// hash: names that differ are told apart without a look at them. It is 0 if free.
type nameSlot uint64

func (s nameSlot) begin() uint32 { return uint32(s) - 1 }
func (s nameSlot) hash() uint32  { return uint32(s >> 32) }

const (
	nameSlots = 256
	nameBlock = 1 << 16
)

// folded is room for a name that is looked up.
type folded [userLimit]byte

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

// find returns the slot of a name in lower case, or the free one where it would
// be, the name as it was put in, and its hash.
func (s *names) find(lower []byte) (slot *nameSlot, proved []byte, hash uint32) {
	hash = uint32(maphash.Bytes(s.seed, lower))
	for i := hash; ; i++ {
		slot = s.slot(i)
		switch {
		case *slot == 0:
			return slot, nil, hash
		case slot.hash() != hash:
			continue
		}
		var other folded
		proved = s.at(slot.begin())
		if bytes.Equal(proved, lower) || bytes.Equal(other.fold(string(proved)), lower) {
			return slot, proved, hash
		}
	}
}

// slot is the one at i, counted round.
func (s *names) slot(i uint32) *nameSlot { return &s.slots[int(i)&(len(s.slots)-1)] }

func (s *names) at(begin uint32) []byte {
	entry := s.blocks[begin/nameBlock][begin%nameBlock:]
	return entry[2 : 2+int(binary.NativeEndian.Uint16(entry))]
}

// get returns a name as it was put in, "" if it was not.
func (s *names) get(name string) string {
	if s.n == 0 {
		return ""
	}
	var f folded
	_, proved, _ := s.find(f.fold(name))
	return string(proved)
}

// put puts in a name of at most userLimit bytes, if it is not there. It reports false
// if there are most already.
func (s *names) put(name string, most int) bool {
	if 2*s.n >= len(s.slots) && s.n < most {
		s.grow()
	}
	var f folded
	slot, proved, hash := s.find(f.fold(name))
	if proved != nil {
		return true
	}
	if s.n >= most {
		return false
	}
	size := 2 + len(name)
	if full := len(s.blocks) * nameBlock; s.used+size > full {
		s.blocks, s.used = append(s.blocks, new([nameBlock]byte)), full
	}
	*slot = nameSlot(hash)<<32 | nameSlot(s.used+1)
	entry := s.blocks[s.used/nameBlock][s.used%nameBlock:]
	binary.NativeEndian.PutUint16(entry, uint16(len(name)))
	copy(entry[2:], name)
	s.used += size
	s.n++
	return true
}

func (s *names) grow() {
	if s.slots == nil {
		s.seed = maphash.MakeSeed()
	}
	old := s.slots
	s.slots = make([]nameSlot, max(2*len(old), nameSlots))
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		i := slot.hash()
		for *s.slot(i) != 0 {
			i++
		}
		*s.slot(i) = slot
	}
}

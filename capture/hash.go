package capture

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// Hasher hashes the two ends of a connection, whichever of them comes first.
// Strangers choose addresses and ports, so the hash is keyed: who cannot see
// the key cannot aim at one slot of a table.
type Hasher struct{ key [4]uint64 }

// NewHasher draws a key.
func NewHasher() Hasher {
	var h Hasher
	for i := range h.key {
		h.key[i] = rand.Uint64() // ChaCha8, seeded by the kernel
	}
	return h
}

// Pair is the hash of a connection.
func (h *Hasher) Pair(a, b netip.AddrPort) uint64 {
	x, y := a.Addr().As16(), b.Addr().As16()
	return h.join(h.end(x[:], a.Port()), h.end(y[:], b.Port()))
}

// Words is the hash of two words, for instance those of an address.
func (h *Hasher) Words(hi, lo uint64) uint64 { return h.join(h.words(hi, lo, 0), 0) }

// end hashes one end, given its address in 16 bytes.
func (h *Hasher) end(addr []byte, port uint16) uint64 {
	hi, lo := binary.BigEndian.Uint64(addr), binary.BigEndian.Uint64(addr[8:16])
	return h.words(hi, lo, port)
}

// end4 hashes one end, given its IPv4 address in 4 bytes, as end does the mapped
// address.
func (h *Hasher) end4(addr []byte, port uint16) uint64 {
	return h.words(0, 0xffff<<32|uint64(binary.BigEndian.Uint32(addr)), port)
}

func (h *Hasher) words(hi, lo uint64, port uint16) uint64 {
	return mix(hi^h.key[0]^uint64(port)*h.key[2], lo^h.key[1])
}

// join makes one hash of two ends. Their order does not count.
func (h *Hasher) join(a, b uint64) uint64 { return mix(a+b, h.key[3]|1) }

// mix folds the 128 bits of a product, as wyhash does.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

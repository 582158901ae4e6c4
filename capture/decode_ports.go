package capture

// PortSet is a set of TCP ports, small enough to stay in a cache.
type PortSet struct{ bits [65536 / 64]uint64 }

// NewPortSet makes a set of the given ports.
func NewPortSet(ports ...uint16) *PortSet {
	s := &PortSet{}
	for _, p := range ports {
		s.bits[p/64] |= 1 << (p % 64)
	}
	return s
}

// Has tells whether port is in the set.
func (s *PortSet) Has(port uint16) bool {
	return s.bits[port/64]&(1<<(port%64)) != 0
}

// either tells whether one of two ports is in the set. Which of them is differs from
// packet to packet, so both are looked up: nobody can guess it, not even a processor.
func (s *PortSet) either(a, b uint16) bool {
	return (s.bits[a/64]>>(a%64)|s.bits[b/64]>>(b%64))&1 != 0
}

// Ports lists the set in ascending order.
func (s *PortSet) Ports() []uint16 {
	var ports []uint16
	for p := range 65536 {
		if s.Has(uint16(p)) {
			ports = append(ports, uint16(p))
		}
	}
	return ports
}

// watches tells whether a TCP header that starts with the four bytes of b
// comes from or goes to a port of the set (RFC 9293 §3.1).
func (s *PortSet) watches(b []byte) bool {
	return s.either(be16(b[2:]), be16(b))
}

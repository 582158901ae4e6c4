package grant

import (
	"net/netip"

	"relaygate/authz"
)

// key is a prefix without pointers, so that the collector need not look into a
// large table. IPv4 is kept as ::ffff:0:0/96.
type key struct {
	addr [16]byte
	bits uint8
}

func keyOf(p netip.Prefix) key {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return key{addr: p.Addr().As16(), bits: uint8(bits)}
}

// narrow reduces k to its first bits bits.
func (k key) narrow(bits int) key {
	if rest := bits % 8; rest != 0 {
		k.addr[bits/8] &= 0xff << (8 - rest)
	}
	for i := (bits + 7) / 8; i < len(k.addr); i++ {
		k.addr[i] = 0
	}
	k.bits = uint8(bits)
	return k
}

func (k key) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.addr)
	if a.Is4In6() && k.bits >= 96 {
		return netip.PrefixFrom(a.Unmap(), int(k.bits)-96)
	}
	return netip.PrefixFrom(a, int(k.bits))
}

// Key is the prefix that a login from a opens: the address alone, or its /64
// where the configuration widens IPv6 and the range does not forbid it.
func (t *Table) Key(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if !a.Is6() || t.cfg.IPv6Prefix >= 128 {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return authz.Widen(a, t.cfg.IPv6Prefix)
}

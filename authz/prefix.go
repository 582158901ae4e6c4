package authz

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// NormalPrefix masks p, turns an IPv4-mapped prefix into the IPv4 one and drops
// zones. A prefix that is neither is an error: read wrongly, it would block or
// open something else.
func NormalPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("invalid prefix %v", p)
	}
	a, bits := p.Addr(), p.Bits()
	if a.Is4In6() {
		if bits < 96 {
			return netip.Prefix{}, fmt.Errorf("prefix %v is wider than the IPv4-mapped range ::ffff:0:0/96", p)
		}
		a, bits = a.Unmap(), bits-96
	}
	return netip.PrefixFrom(a, bits).Masked(), nil
}

// shared are IPv6 ranges in which neighbouring addresses belong to different people
// although they share a /64: a translator or relay stands for many.
var shared = []netip.Prefix{
	netip.MustParsePrefix("64:ff9b::/96"),   // NAT64, RFC 6052 §2.1
	netip.MustParsePrefix("64:ff9b:1::/48"), // local NAT64, RFC 8215
	netip.MustParsePrefix("2001::/32"),      // Teredo, RFC 4380 §2.6
}

// Widen is what may be opened for one IPv6 address: the prefix of so many bits around
// it, or the address alone where the others in there are not the same people's.
func Widen(a netip.Addr, bits int) netip.Prefix {
	wide := netip.PrefixFrom(a, bits).Masked()
	if slices.ContainsFunc(shared, wide.Overlaps) {
		return single(a)
	}
	return wide
}

// PrefixString is p without its length where it is a single address.
func PrefixString(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// normalAddr unmaps a and drops its zone: a zoned address is in no prefix.
func normalAddr(a netip.Addr) (netip.Addr, error) {
	if !a.IsValid() {
		return a, fmt.Errorf("invalid address %v", a)
	}
	return a.Unmap().WithZone(""), nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// prefixTable maps prefixes to values. A look-up costs one map access per
// length in use, whatever the number of prefixes.
type prefixTable[V any] struct {
	values  map[netip.Prefix]V
	lengths [2][]int // IPv4, IPv6; longest first
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// put sets the value of p, which must be normal.
func (t *prefixTable[V]) put(p netip.Prefix, v V) {
	if t.values == nil {
		t.values = make(map[netip.Prefix]V)
	}
	t.values[p] = v
	lengths := &t.lengths[family(p.Addr())]
	if !slices.Contains(*lengths, p.Bits()) {
		*lengths = append(*lengths, p.Bits())
		slices.SortFunc(*lengths, func(a, b int) int { return b - a })
	}
}

// covering finds the longest prefix that holds all of p.
func (t *prefixTable[V]) covering(p netip.Prefix) (netip.Prefix, V, bool) {
	for _, bits := range t.lengths[family(p.Addr())] {
		if bits > p.Bits() {
			continue
		}
		key := netip.PrefixFrom(p.Addr(), bits).Masked()
		if v, ok := t.values[key]; ok {
			return key, v, true
		}
	}
	var none V
	return netip.Prefix{}, none, false
}

// overlapping finds a prefix that shares an address with p: the longest one
// that covers p, else the first one inside p.
func (t *prefixTable[V]) overlapping(p netip.Prefix) (netip.Prefix, V, bool) {
	key, v, ok := t.covering(p)
	if ok || p.IsSingleIP() {
		return key, v, ok
	}
	for k, w := range t.values {
		if p.Overlaps(k) && (!ok || k.Compare(key) < 0) {
			key, v, ok = k, w, true
		}
	}
	return key, v, ok
}

// overlaps appends to out the prefixes that share an address with p, and sorts
// it.
func (t *prefixTable[V]) overlaps(p netip.Prefix, out []netip.Prefix) []netip.Prefix {
	for k := range t.values {
		if p.Overlaps(k) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// clone is a copy that can be added to.
func (t *prefixTable[V]) clone() prefixTable[V] {
	return prefixTable[V]{
		values:  maps.Clone(t.values),
		lengths: [2][]int{slices.Clone(t.lengths[0]), slices.Clone(t.lengths[1])},
	}
}

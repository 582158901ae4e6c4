package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// intervals returns the elements of an interval set: each range is its first
// address and, marked as an end, the first one behind it. Prefixes inside of
// others, which the kernel would refuse, are left out, and adjacent ones
// joined.
func intervals(prefixes []netip.Prefix) []setElement {
	// Prefixes are disjoint or one holds the other; sorted by address and
	// then by length, the holder comes first.
	sorted := slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var elements []setElement
	var end netip.Addr // first behind the last range; invalid if it has no end
	for _, p := range sorted {
		first := p.Masked().Addr()
		if len(elements) > 0 && (!end.IsValid() || first.Less(end)) {
			continue
		}
		if first == end {
			elements = elements[:len(elements)-1]
		} else {
			elements = append(elements, setElement{key: first.AsSlice()})
		}
		if end = behind(p); end.IsValid() {
			elements = append(elements, setElement{key: end.AsSlice(), flags: unix.NFT_SET_ELEM_INTERVAL_END})
		}
	}
	return elements
}

// behind returns the first address after p, or the zero Addr.
func behind(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

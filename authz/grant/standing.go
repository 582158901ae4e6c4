package grant

import "net/netip"

// Of is the grant of exactly this prefix, if there is one.
func (t *Table) Of(p netip.Prefix) (Grant, bool) {
	g := t.standing(p)
	return g, g.Source != 0
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Sight is what the kernel holds of a gate that nobody may be keeping.
type Sight struct {
	// Table says that the table is there, Rules that it has chains: in Observe and
	// UserSets it has none.
	Table, Rules bool
	// Member says that a set of members lets the address in, for Left more, or for
	// ever where that is 0; Static that a static member does.
	Member, Static bool
	Left           time.Duration
}

// Look tells what the kernel does with an address by a gate of this configuration. It
// changes nothing, and needs no Gate. The zero Addr asks for the table alone.
func Look(cfg Config, a netip.Addr) (s Sight, err error) {
	c, err := dial(cfg.Netns)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	table := cfg.tableID()
	objects, err := c.inventory(table)
	switch {
	case errors.Is(err, ErrTableGone):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("look at %s: %w", table, err)
	}
	s.Table = true
	s.Rules = slices.ContainsFunc(objects, func(o object) bool { return o.kind == "chain" })
	if !a.IsValid() {
		return s, nil
	}
	return s, s.member(c, cfg, a.Unmap())
}

// member asks for the elements that let an address in.
func (s *Sight) member(c conn, cfg Config, a netip.Addr) error {
	static := static6
	if a.Is4() {
		static = static4
	}
	set, key, err := cfg.place(a)
	if err != nil { // no set is for such an address
		return nil
	}
	members := []member{{set: set, key: key}}
	if cfg.Mode != UserSets {
		members = append(members, member{set: static, key: a})
	}
	left, err := c.remaining(cfg.tableID(), members)
	if err != nil {
		return fmt.Errorf("look for %s: %w", a, err)
	}
	if s.Member = left[0] != absent; s.Member && left[0] != forever {
		s.Left = left[0]
	}
	s.Static = len(left) > 1 && left[1] != absent
	return nil
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// needsNet6 says whether a member can be a network of IPv6.
func (c Config) needsNet6() bool {
	return c.IPv6Prefix == 64 ||
		slices.ContainsFunc(c.Static, func(p netip.Prefix) bool { return p.Addr().Is6() && p.Bits() <= 64 })
}

func (c Config) validateSets() error {
	s := c.Sets
	switch {
	case families[s.Family] == 0:
		return fmt.Errorf("family %q of the table of sets: want inet, ip or ip6", s.Family)
	case s.Table == "":
		return errors.New("gate mode sets needs the name of a table")
	case families[s.Family] == own.family && s.Table == own.name:
		return fmt.Errorf("%s is the gate's own", own)
	case s.Allow4 == "" && s.Allow6 == "" && s.Net6 == "":
		return errors.New("gate mode sets needs the name of a set")
	case c.IPv6Prefix == 64 && s.Allow6 != "" && s.Net6 == "":
		return errors.New("gate mode sets needs a set for networks of IPv6, as the IPv6 prefix length is 64")
	}
	return c.validateStatic()
}

// memberSets are the names of the sets of members; some may be "" in UserSets.
func (c Config) memberSets() (four, six, net string) {
	if c.Mode == UserSets {
		if four, six = c.Sets.Allow4, c.Sets.Allow6; c.needsNet6() {
			net = c.Sets.Net6
		}
		return four, six, net
	}
	return allow4, allow6, net6
}

// tableID is the table that holds the members.
func (c Config) tableID() tableID {
	if c.Mode == UserSets {
		return tableID{families[c.Sets.Family], c.Sets.Table}
	}
	return own
}

// ErrSets says that the sets of UserSets are not there, or of another kind.
var ErrSets = errors.New("the sets that the gate is to write to")

// userSets looks at the sets and says what they are, or in words what is wrong
// with one.
func (g *Gate) userSets() (inventory, error) {
	four, six, net := g.cfg.memberSets()
	// Handles of sets count from 1 in each table: a new table is told by its own.
	m, err := g.conn.get(message(unix.NFT_MSG_GETTABLE, 0, g.table.body()))
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: no %s", ErrSets, g.table)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", g.table, err)
	}
	list, err := inventoryOf([]netlink.Message{m}, g.table)
	if err != nil {
		return nil, err
	}
	for _, want := range []struct {
		name string
		key  keyType
		nft  string
	}{{four, ipv4Addr, "ipv4_addr"}, {six, ipv6Addr, "ipv6_addr"}, {net, ipv6Addr, "ipv6_addr"}} {
		if want.name == "" {
			continue
		}
		body := g.table.body()
		body.string(unix.NFTA_SET_NAME, want.name)
		m, err := g.conn.get(message(unix.NFT_MSG_GETSET, 0, body))
		advice := fmt.Sprintf("set %s in %s: want one of { type %s; flags timeout; }", want.name, g.table, want.nft)
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%w: no %s", ErrSets, advice)
		}
		if err != nil {
			return nil, fmt.Errorf("get set %s in %s: %w", want.name, g.table, err)
		}
		key, flags, err := parseSet(m)
		if err != nil {
			return nil, err
		}
		// A range of one element has no end: it would open all behind it.
		if key != want.key || flags&^unix.NFT_SET_EVAL != unix.NFT_SET_TIMEOUT {
			return nil, fmt.Errorf("%w: wrong %s; it has key type %d of %d bytes and flags %#x", ErrSets, advice, key.id, key.size, flags)
		}
		o, _, err := parseObject(m)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	slices.SortStableFunc(list, object.compare)
	return list, nil
}

func parseSet(m netlink.Message) (key keyType, flags uint32, err error) {
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_KEY_TYPE:
			key.id = ad.Uint32()
		case unix.NFTA_SET_KEY_LEN:
			key.size = ad.Uint32()
		case unix.NFTA_SET_FLAGS:
			flags = ad.Uint32()
		}
	})
	return key, flags, err
}

// fill adds the static members and as many others to the sets as there is room for
// (ErrFull), and then removes what another mode left.
func (g *Gate) fill(members []member) error {
	built, err := g.userSets()
	if err != nil {
		return err
	}
	if err := g.keepStatic(); err != nil {
		return err
	}
	full := g.addFitting(members)
	if full != nil && !errors.Is(full, ErrFull) {
		return full
	}
	g.built = built
	return errors.Join(full, g.dropTable())
}

// staticLife is how long a static member stays in the administrator's sets when
// nobody is left to keep it there.
const staticLife = time.Hour

// keepStatic adds the static members whose life is more than half over, or who
// are gone. It is called by every Check.
func (g *Gate) keepStatic() error {
	for part := range slices.Chunk(staticMembers(g.cfg), window) {
		left, err := g.conn.remaining(g.table, part)
		if err != nil {
			return err
		}
		var short []member
		for i, m := range part {
			if left[i] < staticLife/2 {
				short = append(short, m)
			}
		}
		if err := g.add(short, true); err != nil {
			return fmt.Errorf("static members: %w", err)
		}
	}
	return nil
}

// staticMembers are an element for each address of the static prefixes or, from
// /64 up, each network. validateSets bounds their number.
func staticMembers(c Config) (members []member) {
	four, six, net := c.memberSets()
	for _, p := range c.Static {
		set, step := six, 128
		switch {
		case p.Addr().Is4():
			set, step = four, 32
		case p.Bits() <= 64:
			set, step = net, 64
		}
		for addr, n := p.Addr(), 1<<(step-p.Bits()); n > 0; n-- {
			members = append(members, member{set, addr, staticLife, staticLife})
			addr = behind(netip.PrefixFrom(addr, step))
		}
	}
	slices.SortFunc(members, longestFirst)
	return slices.CompactFunc(members, sameKey)
}

// validateStatic says which static member cannot stand in sets of single
// addresses.
func (c Config) validateStatic() error {
	for _, p := range c.Static {
		if err := c.Sets.CheckStatic(p); err != nil {
			return fmt.Errorf("static member %w", err)
		}
	}
	return nil
}

// CheckStatic says why a prefix cannot be a static member of these sets.
func (s Sets) CheckStatic(p netip.Prefix) error {
	const bits = 8 // 256 elements for a prefix
	var ok bool
	switch {
	case p.Addr().Is4():
		ok = s.Allow4 != "" && p.Bits() >= 32-bits
	case p.Bits() <= 64:
		ok = s.Net6 != "" && p.Bits() >= 64-bits
	default:
		ok = s.Allow6 != "" && p.Bits() >= 128-bits
	}
	if !ok {
		return fmt.Errorf("%s does not fit into sets of single addresses: let it pass by a rule of your own", p)
	}
	return nil
}

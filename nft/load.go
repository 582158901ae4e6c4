package nft

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
)

// Load is Rebuild for very many members. The table is replaced in one
// transaction with the first of them; the others follow in chunks of about 50 KiB, and
// those of a mode that closes ports are shut out until their turn. After each chunk,
// half a millisecond in which nothing else can be added, it calls between, if that is
// not nil, so that single changes need not wait for the end; an error of between ends
// it and is returned.
func (g *Gate) Load(want iter.Seq[Element], between func() error) error {
	var refused []error
	first := true
	put := func(elements []Element) error {
		members, err := g.cfg.living(elements)
		refused = append(refused, err)
		switch {
		case !first:
			err = g.add(members, false)
		case g.cfg.Mode == UserSets:
			err = g.fill(members)
		default:
			err = g.build(members)
		}
		if err != nil {
			return err
		}
		first = false
		if between == nil {
			return nil
		}
		return between()
	}
	elements := make([]Element, 0, chunk)
	for e := range want {
		if elements = append(elements, e); len(elements) < chunk {
			continue
		}
		if err := put(elements); err != nil {
			return err
		}
		elements = elements[:0]
	}
	if len(elements) > 0 || first {
		if err := put(elements); err != nil {
			return err
		}
	}
	return errors.Join(refused...)
}

// syncMost is how many elements Sync lists. Listing costs the square of their
// number: 0.1 s for these.
const syncMost = 50_000

// slack is how far an element's life may be from what is wanted: time passes
// while it is written and read.
const slack = time.Second

// Sync makes the members exactly those in want, each for as long as it says
// (within a second), and says what it changed, and what it took out. If the table is not as it was
// built, it is Load; if there are more than 50,000 in want, Rebuild: that shuts
// nobody out meanwhile, and lets nothing else be written. All count as added then.
//
// In UserSets it removes nothing, as elements may be another's.
func (g *Gate) Sync(want []Element) (added, renewed int, removed []netip.Prefix, err error) {
	switch err := g.Check(); {
	case errors.Is(err, ErrTableGone), errors.Is(err, ErrChanged), errors.Is(err, ErrSets):
		return len(want), 0, nil, g.Load(slices.Values(want), nil)
	case err != nil:
		return 0, 0, nil, err
	case len(want) > syncMost:
		return len(want), 0, nil, g.Rebuild(want)
	}
	return g.project(want)
}

// project is Sync for a table that is as it was built.
func (g *Gate) project(want []Element) (added, renewed int, removed []netip.Prefix, err error) {
	members, refused := g.cfg.living(want)
	held, err := g.held(members)
	if err != nil {
		return 0, 0, nil, err
	}
	var missing, wrong []member
	for _, m := range members {
		left, ok := held[m.place()]
		delete(held, m.place())
		switch {
		case !ok:
			missing = append(missing, m)
		case left < m.remaining-slack, left > m.remaining+slack && g.cfg.Mode != UserSets:
			wrong = append(wrong, m)
		}
	}
	if err := g.addFitting(missing); err != nil {
		return 0, 0, nil, err
	}
	renew := func(part []member) error { return g.write(anyGeneration, part, true) }
	if g.cfg.Mode == UserSets {
		renew = func(part []member) error { return g.add(part, true) } // which looks at the sets
	}
	for part := range slices.Chunk(wrong, chunk) {
		if err := renew(part); err != nil {
			return 0, 0, nil, fmt.Errorf("renew %d elements: %w", len(part), err)
		}
	}
	if g.cfg.Mode == UserSets {
		held = nil
	}
	for p := range held {
		if err := g.removeMember(member{set: p.set, key: p.key}); err != nil {
			return 0, 0, nil, err
		}
		removed = append(removed, p.prefix())
	}
	slices.SortFunc(removed, netip.Prefix.Compare)
	return len(missing), len(wrong), removed, refused
}

// place is where a member stands.
type place struct {
	set string
	key netip.Addr
}

func (m member) place() place { return place{m.set, m.key} }

// prefix is what a member there lets in.
func (p place) prefix() netip.Prefix {
	bits := p.key.BitLen()
	if p.set == net6 {
		bits = 64
	}
	return netip.PrefixFrom(p.key, bits)
}

// held says for how long the kernel holds each element of the sets; in UserSets
// each of members that it holds.
func (g *Gate) held(members []member) (map[place]time.Duration, error) {
	held := make(map[place]time.Duration, len(members))
	if g.cfg.Mode == UserSets {
		left, err := g.conn.remaining(g.table, members)
		for i := range left {
			if left[i] != absent {
				held[members[i].place()] = left[i]
			}
		}
		return held, err
	}
	for _, set := range []string{allow4, allow6, net6} {
		err := g.conn.list(listElements(g.table, set), func(m netlink.Message) error {
			return eachElement(m, func(e listed) { held[e.place()] = e.remaining })
		})
		if err != nil && !errors.Is(err, errInterrupted) {
			return nil, fmt.Errorf("list set %s: %w", set, err)
		}
	}
	return held, nil
}

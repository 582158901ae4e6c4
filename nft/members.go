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

// Add lets elements in, or extends their stay. What is held for longer, or for
// ever, stays as it is. Either all are added or, on an error, none; errors wrap
// ErrElement, ErrTableGone or ErrFull where these are the reason.
func (g *Gate) Add(elements ...Element) error { return g.let(elements, false) }

// Renew is Add for elements of which most are held: to find that out by the way would
// take the kernel much longer than all else (addAt).
func (g *Gate) Renew(elements ...Element) error { return g.let(elements, true) }

// let is Add; held says that some may be held.
func (g *Gate) let(elements []Element, held bool) error {
	var room [quickMost]member
	members, err := g.cfg.appendMembers(room[:0], elements)
	if err != nil {
		return err
	}
	if !held && g.cfg.Mode != UserSets && g.quick != nil && len(members) > 0 && len(members) <= quickMost {
		if g.quick.add(g.table, members) == nil {
			return nil
		}
		if err := g.conn.settle(); err != nil {
			return err
		}
		held = true // it is, mostly: or what the matter is will be found out
	}
	return g.add(members, held)
}

// add lets members in. The sets of UserSets may have been made anew by now, of another
// kind: it is looked at them before, and nothing is added if anything changed since.
// held says that some may be there already.
func (g *Gate) add(members []member, held bool) error {
	if g.cfg.Mode != UserSets {
		return g.addAt(anyGeneration, members, held)
	}
	return again(unix.ERESTART, func() error { return g.addToUserSets(members, held) })
}

func (g *Gate) addToUserSets(members []member, held bool) error {
	generation, err := g.conn.generation()
	if err != nil {
		return err
	}
	if _, err := g.userSets(); err != nil {
		return err
	}
	return g.addAt(generation, members, held)
}

// addAt takes members for new, unless held says that some may not be: the kernel refuses
// the transaction if one is not (EEXIST), and only then is it asked for how long it holds
// which. To refuse takes it 10 ms and more, as it waits until nobody reads a rule.
func (g *Gate) addAt(generation uint32, members []member, held bool) error {
	var err error
	if !held {
		batch := memberMessages(nil, unix.NFT_MSG_NEWSETELEM, g.table, members)
		for i := range batch {
			batch[i].Header.Flags |= netlink.Excl
		}
		_, err = g.conn.commitAt(generation, batch)
	}
	if held || errors.Is(err, unix.EEXIST) {
		err = g.renew(generation, members)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("%w: %w", ErrTableGone, err)
	case errors.Is(err, unix.ENFILE):
		err = ErrFull // the errno's words are of open files
	}
	return fmt.Errorf("add %d elements: %w", len(members), err)
}

// addFitting adds as many of members as there is room for, in each set. An error that
// wraps ErrFull says that some were left out.
func (g *Gate) addFitting(members []member) (full error) {
	bySet := make(map[string][]member)
	for _, m := range members {
		bySet[m.set] = append(bySet[m.set], m)
	}
	for name, list := range bySet {
		for part := range slices.Chunk(list, chunk) {
			err := g.addHalves(part)
			if errors.Is(err, ErrFull) {
				full = errors.Join(full, fmt.Errorf("set %s: %w", name, err))
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return full
}

// addHalves adds members of one set up to the first for whom there is no room.
func (g *Gate) addHalves(members []member) error {
	err := g.add(members, false)
	if len(members) == 1 || !errors.Is(err, ErrFull) {
		return err
	}
	half := len(members) / 2
	if err := g.addHalves(members[:half]); err != nil {
		return err
	}
	return g.addHalves(members[half:])
}

// renew adds those of members that are not held, or not for as long.
func (g *Gate) renew(generation uint32, members []member) error {
	members, held, err := g.shorter(members)
	if err != nil {
		return fmt.Errorf("look up elements: %w", err)
	}
	return g.write(generation, members, held)
}

// write gives members the life that each says. held says whether the kernel may
// hold one of them.
func (g *Gate) write(generation uint32, members []member, held bool) error {
	batch := memberMessages(nil, unix.NFT_MSG_NEWSETELEM, g.table, members)
	if held && !g.updates {
		// The add in front makes the removal succeed if one runs out meanwhile.
		batch = memberMessages(batch, unix.NFT_MSG_DELSETELEM, g.table, members)
		batch = memberMessages(batch, unix.NFT_MSG_NEWSETELEM, g.table, members)
	}
	_, err := g.conn.commitAt(generation, batch)
	return err
}

// Remove shuts an address out. One that is not there, or no table, is no error.
func (g *Gate) Remove(addr netip.Addr) error {
	set, key, err := g.cfg.place(addr)
	if err != nil {
		return err
	}
	return g.removeMember(member{set: set, key: key})
}

func (g *Gate) removeMember(m member) error {
	left, err := g.conn.remaining(g.table, []member{m})
	if err != nil {
		return fmt.Errorf("remove %s: %w", m.key, err)
	}
	switch {
	// Of one that has run out nothing is to be removed. To try takes the kernel 10 ms and
	// more: for the transaction that fails it waits until nobody reads a rule.
	case left[0] == absent:
		return nil
	// One that stays for ever is the administrator's.
	case left[0] == forever && g.cfg.Mode == UserSets:
		return nil
	}
	_, err = g.conn.commit(memberMessages(nil, unix.NFT_MSG_DELSETELEM, g.table, []member{m}))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", m.key, err)
	}
	return nil
}

// Read returns the members in the kernel's table that have a timeout; none if
// there is no table. It is for the start: listing a full set takes minutes.
//
// An element for a /64 comes as its first address, and only if this Gate makes
// such elements. In UserSets there are none, as they may be another's.
func (g *Gate) Read() ([]Element, error) {
	if g.cfg.Mode == UserSets {
		return nil, nil
	}
	sets := []string{allow4, allow6}
	if g.cfg.IPv6Prefix == 64 {
		sets = append(sets, net6)
	}
	var elements []Element
	seen := make(map[netip.Addr]bool)
	for _, set := range sets {
		err := g.conn.list(listElements(g.table, set), func(m netlink.Message) error {
			return eachElement(m, func(e listed) {
				if e.remaining > 0 && e.remaining < forever && !seen[e.key] {
					seen[e.key] = true
					elements = append(elements, Element{e.key, e.timeout, e.remaining})
				}
			})
		})
		// While the set changes or its hash table is resized, the kernel may
		// repeat some and leave out others, which lets nobody in.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errInterrupted) {
			return nil, fmt.Errorf("read set %s: %w", set, err)
		}
	}
	return elements, nil
}

// window is of how many requests the answers surely fit in the socket's receive
// buffer.
const window = 64

// shorter returns those of members that the kernel does not already hold for as
// long, and whether it holds any of these at all.
func (g *Gate) shorter(members []member) (list []member, held bool, err error) {
	left, err := g.conn.remaining(g.table, members)
	if err != nil {
		return nil, false, err
	}
	list = make([]member, 0, len(members))
	for i, m := range members {
		if left[i] < m.remaining {
			held = held || left[i] != absent
			list = append(list, m)
		}
	}
	return list, held, nil
}

const (
	absent  time.Duration = -1
	forever time.Duration = 1<<63 - 1
)

// remaining asks how long each member may stay: absent if it is not held,
// forever if it is held without a timeout.
func (c conn) remaining(table tableID, members []member) ([]time.Duration, error) {
	left := make([]time.Duration, 0, len(members))
	for len(members) > 0 { // slices.Chunk would let them escape from Add
		n := min(len(members), window)
		part, err := c.remainingOf(table, members[:n])
		if err != nil {
			return nil, err
		}
		left, members = append(left, part...), members[n:]
	}
	return left, nil
}

func (c conn) remainingOf(table tableID, members []member) ([]time.Duration, error) {
	requests := make([]netlink.Message, len(members))
	for i, m := range members {
		requests[i] = getElement(table, m)
	}
	requests, err := c.SendMessages(requests)
	if err != nil {
		return nil, fmt.Errorf("send requests: %w", err)
	}
	left := make([]time.Duration, len(members))
	for i, request := range requests {
		left[i] = absent
		answer, err := c.answer(request.Header.Sequence)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		var held []member
		if err == nil {
			held, err = parseElements(answer)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("get element %s: %w", members[i].key, err), c.settle())
		}
		if len(held) == 1 {
			left[i] = held[0].remaining
		}
	}
	return left, nil
}

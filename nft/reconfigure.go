package nft

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Reconfigure changes the gate to cfg, whose Netns does not count. Between modes
// with a table of our own it is one transaction: at no time is somebody in or
// out who should not be. Members stay where they are if they can, at no cost;
// else want is built in. From or to sets of the administrator's, the new place is
// filled before the old one is emptied of want.
//
// Connections in progress go on as they are. Before the first Rebuild or Load it
// builds nothing.
//
// On an error the gate is as it was, but for one that wraps ErrElement: then it is
// changed, as with Rebuild, without the elements that the error names or with some
// left in the former sets, to run out there.
func (g *Gate) Reconfigure(cfg Config, want []Element) error {
	next := &Gate{conn: g.conn, updates: g.updates, built: g.built}
	cfg.drain = cfg.Mode != Redirect && (g.cfg.drain || g.cfg.Mode == Redirect)
	if err := next.configure(cfg); err != nil {
		return err
	}
	if g.built == nil {
		*g = *next
		return nil
	}
	stay := next.table == g.table && g.cfg.Mode != UserSets &&
		next.cfg.IPv6Prefix == g.cfg.IPv6Prefix && next.cfg.Own == g.cfg.Own
	err := errReplaced
	if stay {
		err = next.swap()
	}
	if next.table == g.table && err != nil {
		// First, as a member who was static has another life.
		if err := g.leave(next, nil); err != nil {
			return err
		}
	}
	if err != nil {
		err = next.Rebuild(want)
	}
	if err != nil && !errors.Is(err, ErrElement) {
		return err
	}
	if left := g.leave(next, want); left != nil {
		err = errors.Join(err, fmt.Errorf("%w: left in the former sets: %w", ErrElement, left))
	}
	*g = *next
	return err
}

// leave takes the static members, and those of want, out of sets of the
// administrator's, but for those that next has there too.
func (g *Gate) leave(next *Gate, want []Element) error {
	if g.cfg.Mode != UserSets {
		return nil
	}
	former, _ := g.cfg.living(want) // what is refused was told by Rebuild
	stay := make(map[place]bool)
	if next.table == g.table {
		wanted, _ := next.cfg.living(want)
		for _, m := range slices.Concat(wanted, staticMembers(next.cfg)) {
			stay[m.place()] = true
		}
	}
	var failed []error
	for _, m := range slices.Concat(former, staticMembers(g.cfg)) {
		if !stay[m.place()] {
			failed = append(failed, g.removeMember(m))
		}
	}
	return errors.Join(failed...)
}

// Repair makes the ruleset as it was built, after Check found it changed. Where
// the sets of members are the ones that were built, they stay, and the rest is
// replaced in one transaction, at the same cost with any number of members; then
// up to 50,000 of these are compared with want. Else it is Load.
func (g *Gate) Repair(want iter.Seq[Element], between func() error) error {
	if g.cfg.Mode == UserSets || g.built == nil || g.swap() != nil {
		return g.Load(want, between)
	}
	var list []Element
	for e := range want {
		if list = append(list, e); len(list) > syncMost {
			return nil
		}
	}
	_, _, _, err := g.project(list)
	return err
}

// errReplaced says that the sets of members are not those that were built.
var errReplaced = errors.New("sets of members were replaced")

// stays says whether swap leaves o alone.
func (o object) stays() bool {
	return o.kind == "table" || o.kind == "set" && slices.Contains([]string{allow4, allow6, net6}, o.name)
}

// swap replaces all in the table but the sets of members, in one transaction.
func (g *Gate) swap() error {
	now, err := g.conn.inventory(g.table)
	if err != nil {
		return err
	}
	stay := slices.DeleteFunc(slices.Clone(now), func(o object) bool { return !o.stays() })
	if !slices.Equal(stay, slices.DeleteFunc(slices.Clone(g.built), func(o object) bool { return !o.stays() })) {
		return errReplaced
	}
	batch := []netlink.Message{message(unix.NFT_MSG_DELRULE, 0, g.table.body())} // every rule
	for _, kind := range []struct {
		name         string
		delete, attr uint16
	}{
		{"chain", unix.NFT_MSG_DELCHAIN, unix.NFTA_CHAIN_NAME},
		{"set", unix.NFT_MSG_DELSET, unix.NFTA_SET_NAME},
	} {
		for _, o := range now {
			if o.kind == kind.name && !o.stays() {
				body := g.table.body()
				body.string(kind.attr, o.name)
				batch = append(batch, message(kind.delete, 0, body))
			}
		}
	}
	rest := g.ruleset
	rest.sets = slices.DeleteFunc(slices.Clone(rest.sets), func(s set) bool { return object{kind: "set", name: s.name}.stays() })
	if batch, err = rest.messages(batch, g.table); err != nil {
		return err
	}
	echo, err := g.conn.commit(batch)
	if err != nil {
		return fmt.Errorf("replace rules of %s: %w", g.table, err)
	}
	fresh, err := inventoryOf(echo, g.table)
	if err != nil {
		return fmt.Errorf("read what the kernel built: %w", err)
	}
	g.built = append(stay, fresh...)
	slices.SortStableFunc(g.built, object.compare)
	return nil
}

package nft

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrTableGone says that the table, or a set that was written to, is not in
	// the kernel: Rebuild it.
	ErrTableGone = errors.New("the gate's table is gone")
	// ErrFull says that a set holds MaxElements, counting those that ran out
	// and were not yet collected.
	ErrFull = errors.New("set is full")
	// ErrUnsupported says that this kernel cannot do what was asked.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// Gate is the table in the kernel. It is not safe for concurrent use.
type Gate struct {
	cfg     Config
	conn    conn
	quick   *quick  // nil where it cannot be had
	table   tableID // where the members are
	ruleset ruleset
	// updates is true where the kernel gives an existing element a new life (Linux
	// 6.12). Where not, renewing removes and adds it in one transaction.
	updates bool
	// lacks says what of cfg this kernel cannot do, nil if nothing.
	lacks error
	// built is what the kernel made of the last Rebuild, nil before.
	built inventory
}

// Open connects to nf_tables. The gate's table stays as it is; a table of
// another name is made and removed, to learn what this kernel can do.
func Open(cfg Config) (*Gate, error) {
	c, err := dial(cfg.Netns)
	if err != nil {
		return nil, err
	}
	g := &Gate{conn: c, quick: newQuick(c)}
	if g.updates, err = probeUpdates(c); err != nil {
		return nil, errors.Join(fmt.Errorf("probe nf_tables: %w", err), c.Close())
	}
	if err := g.configure(cfg); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return g, nil
}

// configure makes g ready to build what cfg says.
func (g *Gate) configure(cfg Config) error {
	cfg, err := cfg.validate()
	if err != nil {
		return fmt.Errorf("gate configuration: %w", err)
	}
	g.cfg, g.lacks, err = g.conn.able(cfg)
	if err != nil {
		return fmt.Errorf("probe nf_tables: %w", err)
	}
	g.table, g.ruleset = g.cfg.tableID(), declare(g.cfg, MaxElements)
	return nil
}

// Close closes the socket. Table and elements stay; these run out.
func (g *Gate) Close() error {
	if err := g.conn.Close(); err != nil {
		return fmt.Errorf("close netfilter socket: %w", err)
	}
	return nil
}

// Lacks says in words what of the Config was left out, as this kernel cannot do
// it. It wraps ErrUnsupported, or is nil.
func (g *Gate) Lacks() error { return g.lacks }

// Rebuild replaces the whole table by the declared ruleset with the members in
// want, in one transaction: at no time is there a gate without its members, or
// none at all. On an error everything is as it was, with one exception: elements
// that may not stand in the gate are left out and named by an error that wraps
// ErrElement, and the gate is built, as it matters more than one member.
// Elements that have run out are left out without an error.
//
// All of want is one datagram: 55 MB for MaxElements IPv6 members, more than
// which no set takes (ErrFull). Load does without.
//
// In UserSets, elements are added to the sets, and a table of our own from
// another mode is removed. Errors wrap ErrSets if a set is not as it should be.
func (g *Gate) Rebuild(want []Element) error {
	members, refused := g.cfg.living(want)
	build := g.build
	if g.cfg.Mode == UserSets {
		build = g.fill
	}
	if err := build(members); err != nil {
		return err
	}
	return refused
}

func (g *Gate) build(members []member) error {
	batch, err := g.ruleset.messages(g.freshTable(g.cfg.Own), g.table)
	if err != nil {
		return err
	}
	batch = memberMessages(batch, unix.NFT_MSG_NEWSETELEM, g.table, members)
	echo, err := g.conn.commit(batch)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		// The table that is there has an owner and we want none, or the reverse.
		var again error
		batch[0] = g.freshTable(!g.cfg.Own)[0]
		if echo, again = g.conn.commit(batch); again == nil {
			err = nil
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("build %s: %w", g.table, ErrFull)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("build %s, which another process may own: %w", g.table, err)
	default:
		return fmt.Errorf("build %s: %w", g.table, err)
	}
	if g.built, err = inventoryOf(echo, g.table); err != nil {
		return fmt.Errorf("read what the kernel built: %w", err)
	}
	return nil
}

// freshTable is tableMessages for the gate's own. adopt says whether a table that is
// there has an owner, who is gone or ourselves.
func (g *Gate) freshTable(adopt bool) []netlink.Message {
	messages := tableMessages(g.table)
	owned := func(m *netlink.Message) {
		body := attributes(m.Data)
		body.uint32(unix.NFTA_TABLE_FLAGS, tableOwner|tablePersist)
		m.Data = body
	}
	if adopt {
		owned(&messages[0])
	}
	if g.cfg.Own {
		owned(&messages[2])
	}
	return messages
}

// CloseAll removes all members at once. The table stays: where the mode closes
// the ports, they are closed for all but static members. In UserSets, these
// members are removed, as others' elements may be in the sets.
func (g *Gate) CloseAll(members ...Element) error {
	if g.cfg.Mode == UserSets {
		var failed []error
		for _, e := range members { // one by one: one that ran out would undo the others
			failed = append(failed, g.Remove(e.Addr))
		}
		return errors.Join(failed...)
	}
	var batch []netlink.Message
	for _, set := range []string{allow4, allow6, net6} {
		body := g.table.body()
		body.string(unix.NFTA_SET_ELEM_LIST_SET, set)
		batch = append(batch, message(unix.NFT_MSG_DELSETELEM, 0, body))
	}
	if _, err := g.conn.commit(batch); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove all members: %w", err)
	}
	return nil
}

// Delete removes the gate's own table, if there is one: then nothing is closed
// any more. The sets of UserSets are another's and stay.
func (g *Gate) Delete() error {
	if g.cfg.Mode == UserSets {
		return nil
	}
	if err := g.dropTable(); err != nil {
		return err
	}
	g.built = nil
	return nil
}

// dropTable removes our own table, whoever of us made it.
func (g *Gate) dropTable() error {
	drop := tableMessages(own)[:2]
	_, err := g.conn.commit(drop)
	if errors.Is(err, unix.EPERM) {
		body := own.body()
		body.uint32(unix.NFTA_TABLE_FLAGS, tableOwner|tablePersist)
		drop[0].Data = body
		_, err = g.conn.commit(drop)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", own, err)
	}
	return nil
}

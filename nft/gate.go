package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrTableGone says that the table, or the set that was written to, is not
	// in the kernel: Rebuild it.
	ErrTableGone = errors.New("table inet " + Table + " is gone")
	// ErrFull says that a set holds MaxElements, counting those that ran out
	// and were not yet collected.
	ErrFull = errors.New("set is full")
)

// Gate is the table in the kernel. It is not safe for concurrent use.
type Gate struct {
	cfg     Config
	conn    conn
	ruleset ruleset
	// updates is true where the kernel gives an existing element a new life.
	updates bool
	// built is what the kernel made of the last Rebuild, nil before.
	built inventory
}

// Open connects to nf_tables. The gate's table stays as it is; a table of
// another name is made and removed, to learn how this kernel renews elements.
func Open(cfg Config) (*Gate, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("gate configuration: %w", err)
	}
	c, err := dial(cfg.Netns)
	if err != nil {
		return nil, err
	}
	updates, err := probeUpdates(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe nf_tables: %w", err), c.Close())
	}
	return &Gate{cfg: cfg, conn: c, ruleset: declare(cfg, MaxElements), updates: updates}, nil
}

// Close closes the socket. Table and elements stay; these run out.
func (g *Gate) Close() error {
	if err := g.conn.Close(); err != nil {
		return fmt.Errorf("close netfilter socket: %w", err)
	}
	return nil
}

// RenewsInPlace says whether the kernel can extend an element (Linux 6.12 and
// later). Where not, renewing removes and adds it in one transaction.
func (g *Gate) RenewsInPlace() bool { return g.updates }

// Rebuild replaces the whole table by the declared ruleset with the members in
// want, in one transaction: at no time is there a gate without its members, or
// none at all. On an error everything is as it was, with one exception: elements
// that may not stand in the gate are left out and named by an error that wraps
// ErrElement, and the gate is built, as it matters more than one member.
// Elements that have run out are left out without an error.
//
// All of want is one datagram: 55 MB for MaxElements IPv6 members, more than
// which no set takes (ErrFull).
func (g *Gate) Rebuild(want []Element) error {
	left := make([]Element, 0, len(want))
	for _, e := range want {
		if e.Remaining > 0 {
			left = append(left, e)
		}
	}
	members, refused := g.cfg.members(left)
	batch, err := g.ruleset.messages(tableMessages(nil, Table), Table)
	if err != nil {
		return err
	}
	batch = memberMessages(batch, unix.NFT_MSG_NEWSETELEM, Table, members)
	echo, err := g.conn.commit(batch)
	if errors.Is(err, unix.ENFILE) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	if err != nil {
		return fmt.Errorf("build table inet %s: %w", Table, err)
	}
	if g.built, err = inventoryOf(echo); err != nil {
		return fmt.Errorf("read what the kernel built: %w", err)
	}
	return refused
}

package nft

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrChanged says that the table is there and something in it is not as Rebuild
// made it.
var ErrChanged = errors.New("the gate's table was changed")

// object is a thing in the table, by what tells it from any other. Handles are
// never used again while the table lives, nor is that of a table: who deletes
// something and makes it again is seen.
type object struct {
	kind   string
	name   string // of its chain, for a rule
	handle uint64
	// state is what can be changed in place, as the kernel describes it: a
	// table's flags (dormant), a chain's hook and policy, what a rule does.
	state string
}

func (o object) compare(p object) int {
	return cmp.Or(cmp.Compare(o.kind, p.kind), cmp.Compare(o.name, p.name))
}

// inventory lists the objects of the table, sorted, but the rules of each chain
// in the order of their evaluation.
type inventory []object

// Check compares the table in the kernel, but not its members, with what the
// last Rebuild made. It returns an error that wraps ErrTableGone or ErrChanged,
// or another one if the kernel could not be asked. It costs about a tenth of a
// millisecond.
func (g *Gate) Check() error {
	if g.built == nil {
		return fmt.Errorf("%w: it was not built yet", ErrTableGone)
	}
	now, err := g.look()
	switch {
	case err == nil:
		err = compare(g.built, now)
		if err == nil && g.cfg.Mode == UserSets {
			err = g.keepStatic()
		}
		return err
	case errors.Is(err, ErrTableGone), errors.Is(err, ErrSets):
		return err
	}
	return fmt.Errorf("check %s: %w", g.table, err)
}

// look reads what there is of what Rebuild made.
func (g *Gate) look() (inventory, error) {
	if g.cfg.Mode == UserSets {
		return g.userSets()
	}
	return g.conn.inventory(g.table)
}

// compare names the first difference.
func compare(built, now inventory) error {
	for i := 0; i < len(built) || i < len(now); i++ {
		switch {
		case i >= len(now) || i < len(built) && built[i].compare(now[i]) < 0:
			return fmt.Errorf("%w: %s %s is missing", ErrChanged, built[i].kind, built[i].name)
		case i >= len(built) || built[i].compare(now[i]) > 0:
			return fmt.Errorf("%w: %s %s was added", ErrChanged, now[i].kind, now[i].name)
		case built[i] != now[i]:
			return fmt.Errorf("%w: %s %s is not as it was built", ErrChanged, built[i].kind, built[i].name)
		}
	}
	return nil
}

// inventory reads the table. Errors wrap ErrTableGone if there is none.
func (c conn) inventory(table tableID) (list inventory, err error) {
	err = again(errInterrupted, func() (err error) { list, err = c.inventoryOnce(table); return err })
	return list, err
}

func (c conn) inventoryOnce(table tableID) (inventory, error) {
	found, err := c.get(message(unix.NFT_MSG_GETTABLE, 0, table.body()))
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrTableGone
	}
	if err != nil {
		return nil, fmt.Errorf("get table: %w", err)
	}
	objects := []netlink.Message{found}
	for _, kind := range []uint16{unix.NFT_MSG_GETSET, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
		err := c.list(message(kind, 0, table.body()), func(m netlink.Message) error {
			objects = append(objects, m)
			return nil
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return inventoryOf(objects, table)
}

// inventoryOf makes the inventory from the kernel's descriptions, as it lists or
// echoes them. Those of other tables are left out.
func inventoryOf(messages []netlink.Message, table tableID) (inventory, error) {
	list := inventory{}
	for _, m := range messages {
		o, name, err := parseObject(m)
		if err != nil {
			return nil, err
		}
		if name == table.name {
			list = append(list, o)
		}
	}
	slices.SortStableFunc(list, object.compare)
	return list, nil
}

// layout says in which attributes the kernel describes a kind of object.
type layout struct {
	kind                string
	table, name, handle uint16
	state               []uint16
}

const newRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE

var layouts = map[netlink.HeaderType]layout{
	unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE: {
		"table", unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_NAME, tableHandle,
		[]uint16{unix.NFTA_TABLE_FLAGS},
	},
	unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSET: {
		"set", unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, setHandle,
		[]uint16{unix.NFTA_SET_FLAGS},
	},
	unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN: {
		"chain", unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HANDLE,
		[]uint16{unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE},
	},
	newRule: {
		"rule of chain", unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE,
		[]uint16{unix.NFTA_RULE_EXPRESSIONS},
	},
}

// parseObject reads the description of a table, set, chain or rule, and the name
// of the table that it is in.
func parseObject(m netlink.Message) (o object, table string, err error) {
	layout, ok := layouts[m.Header.Type]
	if !ok {
		return o, "", fmt.Errorf("unexpected nf_tables message of type %#x", uint16(m.Header.Type))
	}
	o.kind = layout.kind
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == layout.table {
			table = ad.String()
		}
		switch {
		case ad.Type() == layout.name:
			o.name = ad.String()
		case ad.Type() == layout.handle:
			o.handle = ad.Uint64()
		case m.Header.Type == newRule && slices.Contains(layout.state, ad.Type()):
			nested(ad, func(list *netlink.AttributeDecoder) { o.state += withoutCount(list.Bytes()) })
		case slices.Contains(layout.state, ad.Type()):
			o.state += string(ad.Bytes())
		}
	})
	return o, table, err
}

// withoutCount is the description of an expression, but for what a counter counts.
func withoutCount(expression []byte) string {
	counter := attributes{}
	counter.string(unix.NFTA_EXPR_NAME, "counter")
	if bytes.HasPrefix(expression, counter) {
		return string(counter)
	}
	return string(expression)
}

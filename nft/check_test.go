package nft

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

func named(kind uint16, flags netlink.HeaderFlags, table string, more func(*attributes)) netlink.Message {
	a := nfgenmsg(unix.NFPROTO_INET, 0)
	a.string(unix.NFTA_TABLE_NAME, table) // attribute 1 of every object
	if more != nil {
		more(&a)
	}
	return message(kind, flags, a)
}

// handleOf finds what a test is about to damage.
func handleOf(t *testing.T, g *Gate, kind, name string) uint64 {
	t.Helper()
	for _, o := range g.built {
		if o.kind == kind && o.name == name {
			return o.handle
		}
	}
	t.Fatalf("no %s %s was built", kind, name)
	return 0
}

// onChain is a message about a chain or a rule of one.
func onChain(kind uint16, flags netlink.HeaderFlags, chain string, more func(*attributes)) netlink.Message {
	return named(kind, flags, Table, func(a *attributes) {
		name := uint16(unix.NFTA_CHAIN_NAME)
		if kind == unix.NFT_MSG_NEWRULE || kind == unix.NFT_MSG_DELRULE {
			name = unix.NFTA_RULE_CHAIN
		}
		a.string(name, chain)
		if more != nil {
			more(a)
		}
	})
}

// acceptAll makes a rule that lets everybody in.
func acceptAll(a *attributes) {
	b, err := expr.Marshal(unix.NFPROTO_INET, accept()[0])
	if err != nil {
		panic(err)
	}
	list := a.open(unix.NFTA_RULE_EXPRESSIONS)
	a.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	a.close(list)
}

// damages are what other programs do to the table, and what Check says then.
var damages = []struct {
	name   string
	mode   Mode
	damage func(t *testing.T, g *Gate) []netlink.Message
	want   error
}{
	{"flush ruleset", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{flushRuleset()}
	}, ErrTableGone},
	{"delete table", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{named(unix.NFT_MSG_DELTABLE, 0, Table, nil)}
	}, ErrTableGone},
	{"delete table in observe", Observe, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{named(unix.NFT_MSG_DELTABLE, 0, Table, nil)}
	}, ErrTableGone},
	{"delete a set", Observe, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{named(unix.NFT_MSG_DELSET, 0, Table, func(a *attributes) { a.string(unix.NFTA_SET_NAME, allow6) })}
	}, ErrChanged},
	{"delete the first rule", Filter, func(t *testing.T, g *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_DELRULE, 0, "gate", func(a *attributes) {
			a.uint64(unix.NFTA_RULE_HANDLE, handleOf(t, g, "rule of chain", "gate"))
		})}
	}, ErrChanged},
	{"flush a chain", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_DELRULE, 0, "gate", nil)}
	}, ErrChanged},
	{"delete a chain", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{
			onChain(unix.NFT_MSG_DELRULE, 0, "pre", nil),
			onChain(unix.NFT_MSG_DELCHAIN, 0, "pre", nil),
		}
	}, ErrChanged},
	{"insert a rule", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_NEWRULE, netlink.Create, "gate", acceptAll)}
	}, ErrChanged},
	{"add a rule", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, "gate", acceptAll)}
	}, ErrChanged},
	{"replace a rule", Filter, func(t *testing.T, g *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_NEWRULE, netlink.Replace, "gate", func(a *attributes) {
			a.uint64(unix.NFTA_RULE_HANDLE, handleOf(t, g, "rule of chain", "gate"))
			acceptAll(a)
		})}
	}, ErrChanged},
	{"change a policy", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_NEWCHAIN, 0, "in", func(a *attributes) {
			a.uint32(unix.NFTA_CHAIN_POLICY, uint32(expr.VerdictDrop))
		})}
	}, ErrChanged},
	{"add a chain", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{onChain(unix.NFT_MSG_NEWCHAIN, netlink.Create, "extra", nil)}
	}, ErrChanged},
	{"make the table dormant", Filter, func(*testing.T, *Gate) []netlink.Message {
		return []netlink.Message{named(unix.NFT_MSG_NEWTABLE, 0, Table, func(a *attributes) {
			a.uint32(unix.NFTA_TABLE_FLAGS, unix.NFT_TABLE_F_DORMANT)
		})}
	}, ErrChanged},
	{"build the same again", Filter, func(t *testing.T, g *Gate) []netlink.Message {
		batch, err := g.ruleset.messages(tableMessages(own), own)
		must(t, err)
		return batch
	}, ErrChanged},
	{"add and remove members, and another table", Filter, func(*testing.T, *Gate) []netlink.Message {
		return slices.Concat(
			memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, []member{{allow4, strange4, time.Hour, time.Hour}}),
			memberMessages(nil, unix.NFT_MSG_DELSETELEM, own, []member{{allow4, member4, 0, 0}}),
			tableMessages(tableID{unix.NFPROTO_INET, "another"}),
		)
	}, nil},
}

func TestCheckFindsDamage(t *testing.T) {
	for _, tt := range damages {
		t.Run(tt.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			cfg := filter(ns)
			cfg.Mode = tt.mode
			g := openGate(t, cfg)
			if err := g.Check(); !errors.Is(err, ErrTableGone) {
				t.Errorf("before it is built: got %v, want ErrTableGone", err)
			}
			rebuild(t, g, minute(member4)...)
			if err := g.Check(); err != nil {
				t.Errorf("as it was built: %v", err)
			}
			commit(t, another(t, ns), tt.damage(t, g)...)
			err := g.Check()
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			t.Log(err)
			if err := g.Add(minute(static4A)...); errors.Is(tt.want, ErrTableGone) != errors.Is(err, ErrTableGone) {
				t.Errorf("Add: got %v", err)
			}
			rebuild(t, g, minute(member4)...)
			if err := g.Check(); err != nil {
				t.Errorf("after the repair: %v", err)
			}
		})
	}
}

// While the filter is built, nobody can slip a member in for ever: the ranges
// and ports that a rule uses are constant.
func TestStaticSetsAreConstant(t *testing.T) {
	ns := bpftest.Namespace(t)
	rebuild(t, openGate(t, filter(ns)))
	other := another(t, ns)
	for set, elements := range map[string][]setElement{
		static4: intervals([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}),
		static6: intervals([]netip.Prefix{netip.MustParsePrefix("2001:db8:f::/48")}),
		ports:   {{key: []byte{0, 110}}},
	} {
		for _, kind := range []uint16{unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM} {
			_, err := other.commit(elementMessages(nil, kind, own, set, elements))
			if !errors.Is(err, unix.EBUSY) {
				t.Errorf("change of %s: got %v, want EBUSY", set, err)
			}
		}
	}
}

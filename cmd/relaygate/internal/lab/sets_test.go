package lab_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// A denial closes what is always allowed also where the sets cannot hold what it leaves
// of that: what does not fit closes with it, and that is said. It keeps no other order
// from being carried out, nor relaygate from starting again.
func TestDenialThatTheSetsCannotHold(t *testing.T) {
	n := labtest.Network(t)
	c, err := nftables.New(nftables.WithNetNSFd(n.Server.FD()))
	must(t, err)
	mine := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mine"})
	nets := &nftables.Set{Table: mine, Name: "net6", KeyType: nftables.TypeIP6Addr, HasTimeout: true}
	four := &nftables.Set{Table: mine, Name: "allow4", KeyType: nftables.TypeIPAddr, HasTimeout: true}
	for _, s := range []*nftables.Set{nets, four, {Table: mine, Name: "allow6", KeyType: nftables.TypeIP6Addr, HasTimeout: true}} {
		must(t, c.AddSet(s, nil))
	}
	must(t, c.Flush())
	holds := func(set *nftables.Set, want int) func() error {
		return func() error {
			list, err := c.GetSetElements(set)
			if err == nil && len(list) != want {
				err = fmt.Errorf("set %s holds %d elements, want %d", set.Name, len(list), want)
			}
			return err
		}
	}
	whole, err := lab.Client6.Prefix(64)
	must(t, err)
	w := populate(t, n, n.Server, lab.Options{
		Lifetime: time.Minute, Grant: fmt.Sprintf("always = [%q, \"203.0.113.0/29\"]", whole),
		Mode: "mode = \"sets\"\nsets = { table = \"inet mine\" }",
	})
	must(t, holds(nets, 1)())
	must(t, holds(four, 8)())

	deny := control.Order{Verb: control.VerbDeny, Prefix: netip.PrefixFrom(lab.Client6, 128)}
	const unfit = "the sets cannot hold all that denials leave of grant.always"
	out, err := control.NewClient(w.daemon.Socket).Order(t.Context(), deny)
	if err != nil || !strings.Contains(strings.Join(out.Warnings, " "), unfit) {
		t.Errorf("the denial is answered with %+v, %v", out, err)
	}
	must(t, holds(nets, 0)())
	must(t, holds(four, 8)())
	must(t, w.says(t, "status", unfit)())
	w.order(t, control.Order{Verb: control.VerbGrant, Prefix: netip.MustParsePrefix("203.0.113.99/32")})
	must(t, holds(four, 9)())
	w.order(t, control.Order{Verb: control.VerbRevoke, Prefix: netip.MustParsePrefix("203.0.113.99/32")})

	// What somebody else puts there stays, and that is said.
	foreign := netip.MustParseAddr("203.0.113.98")
	must(t, c.SetAddElements(four, []nftables.SetElement{{Key: foreign.AsSlice(), Timeout: time.Hour}}))
	must(t, c.Flush())
	const holding = "the gate's sets hold it for 60 min more: somebody else put it there"
	must(t, w.says(t, "why "+foreign.String(), holding)())
	if out := w.verb(t, "why", "203.0.113.99"); strings.Contains(out, "hold it") {
		t.Errorf("what was revoked is told to be open:\n%s", out)
	}
	must(t, c.SetDeleteElements(four, []nftables.SetElement{{Key: foreign.AsSlice()}}))
	must(t, c.Flush())

	must(t, w.daemon.Stop())
	w.start(t)
	must(t, holds(nets, 0)())
	must(t, holds(four, 8)())

	w.order(t, control.Order{Verb: control.VerbUndeny, Prefix: deny.Prefix})
	must(t, holds(nets, 1)())
	if out := w.verb(t, "status"); strings.Contains(out, unfit) {
		t.Errorf("status tells what is over:\n%s", out)
	}
}

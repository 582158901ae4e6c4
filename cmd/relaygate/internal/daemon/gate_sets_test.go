package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"

	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/daemon/gate"
)

// Elements of sets of the administrator's are taken out one by one: none of those of
// closed grants stays, however many close at once. (A member would relay until its
// element runs out, a day or a year after an order that said it was done.)
func TestSetsAreShutHoweverMany(t *testing.T) {
	for _, tt := range []struct {
		name  string
		order func(*grant.Table, time.Time) []grant.Change
	}{
		{"pause", func(table *grant.Table, now time.Time) []grant.Change { return table.Pause(now, "root", "") }},
		{"deny", func(table *grant.Table, now time.Time) []grant.Change {
			return table.Deny(now, netip.MustParsePrefix("11.0.0.0/8"), 0, "root", "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			c, set := adminSets(t, ns)
			d := newPipelineOf(t, ns, "mode = \"sets\"\nsets = { table = \"inet mail\" }")
			const count = 20_000 // more than the gate's queue has room for, and a table tells of
			d.play(t, &player{count: count})
			if list, err := c.GetSetElements(set); err != nil || len(list) != count {
				t.Fatalf("the set holds %d elements, %v, want %d", len(list), err, count)
			}
			table := d.owner.grants()
			d.ownGate()
			now := time.Now()
			changes := tt.order(table, now)
			for _, c := range changes {
				d.owner.change(now, c)
			}
			d.runGate(t)
			if list, err := c.GetSetElements(set); err != nil || len(list) != 0 {
				t.Errorf("the set holds %d elements, %v, want none", len(list), err)
			}
			must(t, d.close())
		})
	}
}

// What no set of the administrator's can hold needs not be shut out of one: it keeps no
// rebuild from being done.
func TestWhatNoSetHoldsKeepsNobodyOut(t *testing.T) {
	ns := bpftest.Namespace(t)
	c, set := adminSets(t, ns)
	d := newPipelineOf(t, ns, "mode = \"sets\"\nsets = { table = \"inet mail\", allow6 = \"\" }")
	table, now := d.owner.grants(), time.Now()
	d.ownGate()
	order := func(p string, do func(netip.Prefix) []grant.Change) {
		for _, c := range do(netip.MustParsePrefix(p)) {
			d.owner.change(now, c)
		}
	}
	manual := func(p netip.Prefix) []grant.Change {
		change, _ := table.Manual(now, p, time.Minute, "root", "")
		return []grant.Change{change}
	}
	order("2001:db8::7/128", manual)
	order("192.0.2.7/32", manual)
	order("2001:db8::7/128", func(p netip.Prefix) []grant.Change { return table.Revoke(now, p, "root", "") })
	d.runGate(t)
	many := grant.Change{Kind: grant.Paused, Rebuild: true, Closed: []netip.Prefix{netip.MustParsePrefix("2001:db8::7/128")}}
	c.FlushSet(set)
	must(t, c.Flush())
	d.gate.Write(table, &many, now) // as a pause of very many does
	d.runGate(t)
	if list, err := c.GetSetElements(set); err != nil || len(list) != 1 {
		t.Errorf("the set holds %d elements, %v, want the one that is granted", len(list), err)
	}
	must(t, d.close())
}

// adminSets makes a table of the administrator's, and returns its set of IPv4
// addresses.
func adminSets(t *testing.T, ns *netns.Namespace) (*nftables.Conn, *nftables.Set) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	must(t, err)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mail"})
	four := &nftables.Set{Table: table, Name: "allow4", KeyType: nftables.TypeIPAddr, HasTimeout: true}
	for _, s := range []*nftables.Set{
		four,
		{Table: table, Name: "allow6", KeyType: nftables.TypeIP6Addr, HasTimeout: true},
		{Table: table, Name: "net6", KeyType: nftables.TypeIP6Addr, HasTimeout: true},
	} {
		must(t, c.AddSet(s, nil))
	}
	must(t, c.Flush())
	return c, four
}

// ownGate lets the gate ask for the grants where no owner runs.
func (d *daemon) ownGate() {
	d.gate.Connect(gate.Owner{Snapshot: func(context.Context) (gate.Projection, error) {
		return d.gate.Project(d.owner.grants(), time.Now()), nil
	}})
}

// runGate lets the gate do what was sent to it.
func (d *daemon) runGate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { return d.gate.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		if err := d.gate.Settle(ctx); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		return nil
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

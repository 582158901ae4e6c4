package nft

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// Whatever the modes between which the gate changes, at no time does a member
// meet a closed door, or a stranger an open one that neither mode has.
func TestReconfigureIsOneTransaction(t *testing.T) {
	w := newWorld(t)
	greet(t, w.server, 25, "mx")
	greet(t, w.server, 925, "relay")
	redirect, filter := inMode(Redirect, w.server), inMode(Filter, w.server)
	more := filter
	more.Ports, more.Brakes = []uint16{25, 587}, Brakes{NewPerMinute: 1 << 20}
	g := openGate(t, filter)
	rebuild(t, g, minute(member4, member6)...)

	var stop, relayed atomic.Bool
	var dials atomic.Int64
	var probing sync.WaitGroup
	probe := func(from, to netip.Addr, ok func(line string, err error) bool) {
		probing.Go(func() {
			for !stop.Load() {
				line, err := greeting(w.clients, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 25))
				dials.Add(1)
				if !ok(line, err) {
					t.Errorf("%s: got %q, %v", from, line, err)
					return
				}
			}
		})
	}
	member := func(line string, err error) bool {
		relayed.CompareAndSwap(false, line == "relay")
		return err == nil && (line == "mx" || line == "relay")
	}
	probe(member4, server4, member)
	probe(member6, server6, member)
	probe(strange4, server4, func(line string, err error) bool { return line == "mx" || errors.Is(err, unix.ECONNREFUSED) })
	var slowest time.Duration
	for i := 0; i%3 != 2 || dials.Load() < 300; i++ {
		start := time.Now()
		must(t, g.Reconfigure([]Config{redirect, filter, more}[i%3], nil))
		slowest = max(slowest, time.Since(start))
		must(t, g.Check())
	}
	stop.Store(true)
	probing.Wait()
	t.Logf("%d connections meanwhile; the slowest change took %v", dials.Load(), slowest)
	if !relayed.Load() {
		t.Error("no member was redirected")
	}
	w.expect(t, "stranger", strange4, server4, 25, false)
}

// Between a table of our own and the administrator's sets, whose rules close the
// port all the time, no stranger meets an open door either way; and on the way to
// the sets no member a closed one.
func TestReconfigureToUserSetsAndBack(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	addTable(t, another(t, w.server), "mine", ownSets())
	own, theirs := inMode(Filter, w.server), userSets(w.server)
	g := openGate(t, theirs)
	want := minute(member4, member6, static4A, static6A)
	rebuild(t, g, want...)

	var stop, leaving atomic.Bool
	var dials atomic.Int64
	var probing sync.WaitGroup
	for _, c := range who {
		probing.Go(func() {
			for !stop.Load() {
				before := leaving.Load()
				err := dialFrom(w.clients, c.from, c.to, 25)
				dials.Add(1)
				switch {
				case !c.passes && !errors.Is(err, unix.ECONNREFUSED), c.passes && err != nil && !before && !leaving.Load():
					t.Errorf("%s %s: %v", c.name, c.from, err)
					return
				}
			}
		})
	}
	for dials.Load() < 600 {
		leaving.Store(true) // the administrator's rules close for whoever is taken out
		must(t, g.Reconfigure(own, want))
		must(t, g.Reconfigure(theirs, want))
		leaving.Store(false)
		for n := dials.Load(); dials.Load() < n+30; {
			must(t, g.Check())
		}
	}
	stop.Store(true)
	probing.Wait()
}

func TestReconfigure(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	other := another(t, w.server)
	addTable(t, other, "mine", ownSets())
	g := openGate(t, inMode(Filter, w.server))
	rebuild(t, g, minute(member4, memberNet6)...)

	bad := inMode(Redirect, w.server)
	bad.RelayPort = 10025
	if err := g.Reconfigure(bad, nil); err == nil {
		t.Error("a relay port that anybody can take: got no error")
	}
	missing := userSets(w.server)
	missing.Sets.Allow4 = "missing"
	if err := g.Reconfigure(missing, minute(member4)); !errors.Is(err, ErrSets) {
		t.Errorf("got %v, want ErrSets", err)
	}
	if err := g.Check(); err != nil {
		t.Errorf("after changes that failed: %v", err)
	}

	// With another prefix length, other elements are needed.
	wide := inMode(Filter, w.server)
	wide.IPv6Prefix = 64
	must(t, g.Reconfigure(wide, minute(member4, memberNet6)))
	if _, ok := held(t, g, netip.MustParseAddr("2001:db8:64::")); !ok {
		t.Error("the member's network is not in the gate")
	}

	// To sets of the administrator's, whose filter is closed but for them.
	must(t, g.Reconfigure(userSets(w.server), minute(member4, member6)))
	if _, err := other.inventory(own); !errors.Is(err, ErrTableGone) {
		t.Errorf("the gate's own table: got %v, want that it is gone", err)
	}
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.passes)
	}
	must(t, g.Reconfigure(inMode(Observe, w.server), minute(member4)))
	w.expect(t, "member whose element was taken back", member4, server4, 25, false)
	w.expect(t, "static member whose element was taken back", static4A, server4, 25, false)
	if _, ok := held(t, g, member4); !ok {
		t.Error("the member is not in the gate's own table")
	}
}

func TestCloseAllAndDelete(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	g := openGate(t, inMode(Filter, w.server))
	if err := g.CloseAll(); err != nil {
		t.Errorf("without a table: %v", err)
	}
	rebuild(t, g, minute(member4, member6)...)
	must(t, g.CloseAll())
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.name == "static member")
	}
	must(t, g.Check())
	must(t, g.Delete())
	w.expect(t, "stranger", strange4, server4, 25, true)
	if err := g.Check(); !errors.Is(err, ErrTableGone) {
		t.Errorf("got %v, want ErrTableGone", err)
	}
}

// Each kind of damage is repaired; where the sets of members stand, with them in.
func TestRepair(t *testing.T) {
	for _, tt := range damages {
		if tt.want == nil {
			continue // nothing to repair
		}
		t.Run(tt.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			cfg := filter(ns)
			cfg.Mode = tt.mode
			g := openGate(t, cfg)
			rebuild(t, g, minute(member4)...)
			commit(t, another(t, ns), tt.damage(t, g)...)
			before := g.Check()
			must(t, g.Repair(slices.Values(minute(member6)), nil))
			if err := g.Check(); err != nil {
				t.Errorf("after the repair: %v", err)
			}
			_, old := held(t, g, member4)
			_, fresh := held(t, g, member6)
			if old == fresh {
				t.Errorf("after %v: members that were there: %v, that are wanted: %v; want one of them", before, old, fresh)
			}
			added, renewed, removed, err := g.Sync(minute(member6))
			must(t, err)
			t.Logf("%v: %d added, %d renewed, %v removed", before, added, renewed, removed)
			if n := count(t, g, allow4) + count(t, g, allow6); n != 1 {
				t.Errorf("got %d members, want 1", n)
			}
		})
	}
}

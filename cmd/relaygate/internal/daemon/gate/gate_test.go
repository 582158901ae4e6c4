package gate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

var must = bpftest.Must

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeTable is a kernel that says what it is told to.
type fakeTable struct {
	noTable
	check, add error
	compared   int            // by Sync
	takes      time.Duration  // Sync
	foreign    []netip.Prefix // what it takes out
	repaired   int
	bites      [2]uint64
	members    []nft.Bitten
	static     []netip.Prefix // of the last Reconfigure
	unfit      netip.Prefix   // a static member that the kernel does not take
}

func (f *fakeTable) Check() error             { return f.check }
func (f *fakeTable) Add(...nft.Element) error { return f.add }
func (f *fakeTable) Sync([]nft.Element) (added, renewed int, removed []netip.Prefix, err error) {
	f.compared++
	time.Sleep(f.takes)
	return 1, 0, f.foreign, nil
}

func (f *fakeTable) Repair(iter.Seq[nft.Element], func() error) error {
	f.repaired++
	f.check, f.add = nil, nil
	return nil
}

func (f *fakeTable) Bites() (rate, concurrent uint64, err error) { return f.bites[0], f.bites[1], nil }
func (f *fakeTable) Bitten() ([]nft.Bitten, error)               { return f.members, nil }

func (f *fakeTable) Reconfigure(cfg nft.Config, _ []nft.Element) error {
	if f.unfit.IsValid() && slices.Contains(cfg.Static, f.unfit) {
		return errors.New("it does not fit")
	}
	f.static = cfg.Static
	return nil
}

func newFakeGate(f *fakeTable) *Gate {
	g := newGate(f, slog.New(slog.DiscardHandler), control.NewHub())
	g.Connect(Owner{Snapshot: func(context.Context) (Projection, error) { return Projection{}, nil }})
	return g
}

// Who took the table away is told, whether the gate hears of it first or finds it
// gone first.
func TestWhoDamagedTheGateIsTold(t *testing.T) {
	culprit := &nft.Change{Process: "nft", PID: 4711}
	gone := fmt.Errorf("wrapped: %w", nft.ErrTableGone)
	const named = `"nft" (process 4711) changed a ruleset`
	for _, tt := range []struct {
		name string
		play func(context.Context, *Gate, *fakeTable)
		want string
	}{
		{"heard of", func(ctx context.Context, g *Gate, f *fakeTable) {
			f.check = gone
			g.inspect(ctx, culprit)
		}, named + ": wrapped: "},
		{"found when it was to be written", func(ctx context.Context, g *Gate, f *fakeTable) {
			f.add = gone
			g.apply(ctx, operation{element: nft.Element{Addr: netip.MustParseAddr("192.0.2.7")}})
			g.inspect(ctx, culprit)
		}, "gone when it was to be written; just before, " + named},
		{"found by the regular look", func(ctx context.Context, g *Gate, f *fakeTable) {
			f.check = gone
			g.inspect(ctx, nil)
			g.inspect(ctx, culprit)
		}, nft.ErrTableGone.Error() + "; just before, " + named},
		{"what comes much later explains nothing", func(ctx context.Context, g *Gate, f *fakeTable) {
			f.check = gone
			g.inspect(ctx, nil)
			g.unexplained = g.unexplained.Add(-2 * explainedWithin)
			g.inspect(ctx, culprit)
		}, nft.ErrTableGone.Error()},
	} {
		f := &fakeTable{}
		g := newFakeGate(f)
		tt.play(t.Context(), g, f)
		s := g.Status()
		late := strings.HasPrefix(tt.name, "what comes")
		if s.Losses != 1 || s.Rebuilds != 1 || f.repaired != 1 || !strings.Contains(s.LastLoss, tt.want) || late == strings.Contains(s.LastLoss, named) {
			t.Errorf("%s: %+v, repaired %d times, want %q", tt.name, s, f.repaired, tt.want)
		}
	}
}

// After a transaction that was not seen as a whole members are compared as soon as
// they have rested, not again and again where that takes long.
func TestUnseenChangesAreComparedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTable{}
		g := newFakeGate(f)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { must(t, g.Run(ctx)) }()
		steps := []struct {
			what   string
			writes int           // transactions of others, one after the other
			took   time.Duration // to compare
			grants int64
			within time.Duration
			want   int // comparisons
		}{
			{what: "nobody wrote anything", within: time.Minute},
			{what: "the first", writes: 1, within: time.Millisecond, want: 1},
			{what: "it is not done again", within: time.Minute},
			{what: "others write all the time", writes: 1000, took: 10 * time.Millisecond, within: 10 * time.Second, want: 11},
			{what: "one that the scheduler kept", writes: 1, took: compareShort - 1, within: time.Second, want: 1},
			{what: "behind it", writes: 1, within: checkEvery, want: 1},
			{what: "it takes long", writes: 1, took: time.Second, within: 2 * time.Second, want: 1},
			{what: "behind that", writes: 1, within: 97 * time.Second},
			{what: "when it has rested", within: 2 * time.Second, want: 1},
			{what: "very many are not listed", writes: 1, grants: loadFrom, within: time.Hour},
			{what: "until they are fewer", within: checkEvery, want: 1},
		}
		for _, s := range steps {
			before := f.compared
			must(t, g.ask(ctx, func(context.Context) error { f.takes = s.took; return nil }))
			g.grants.Store(s.grants)
			for range s.writes {
				must(t, g.ask(ctx, func(ctx context.Context) error {
					g.inspect(ctx, &nft.Change{Process: "nft", PID: 1})
					return nil
				}))
				time.Sleep(s.within / time.Duration(s.writes))
			}
			if s.writes == 0 {
				time.Sleep(s.within)
			}
			synctest.Wait()
			if got := f.compared - before; got != s.want {
				t.Errorf("%s: compared %d times, want %d", s.what, got, s.want)
			}
		}
		if s := g.Status(); s.LastLoss != `"nft" (process 1) changed a ruleset` {
			t.Errorf("the last loss is told as %q", s.LastLoss)
		}
	})
}

// A look that fails, for want of memory say, forgets nothing of what was told, nor keeps
// what is to be tried again from it.
func TestFailedLookForgetsNothing(t *testing.T) {
	f := &fakeTable{check: errors.New("no memory")}
	g := newFakeGate(f)
	g.inspect(t.Context(), &nft.Change{Process: "nft", PID: 1, Members: true})
	if s := g.Status(); s.Rebuilds != 1 || g.broken {
		t.Errorf("rebuilt %d times behind a change of members that could not be looked at", s.Rebuilds)
	}
	g.broken = true
	g.inspect(t.Context(), nil)
	if s := g.Status(); s.Rebuilds != 2 || g.broken {
		t.Errorf("rebuilt %d times, and what failed before is not tried again", s.Rebuilds)
	}
	g.inspect(t.Context(), &nft.Change{Process: "nft", PID: 1})
	if g.rested() == nil {
		t.Error("nothing is compared behind a change that could not be looked at")
	}
	long := time.Now().Add(time.Hour)
	g.rest = long // very many members were compared
	if g.inspect(t.Context(), &nft.Change{Process: "nft", PID: 1}); g.rest != long {
		t.Errorf("a look that failed lets them rest %v shorter", long.Sub(g.rest))
	}
}

// Members that were bitten again are told once, also after the kernel began to
// count anew.
func TestBitesAreToldOnce(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	f := &fakeTable{}
	g := newFakeGate(f)
	var told []nft.Bitten
	g.owner.Bitten = func(_ context.Context, list []nft.Bitten) { told = append(told, list...) }
	for _, step := range []struct {
		bites   [2]uint64
		members []nft.Bitten
		want    []nft.Bitten
	}{
		{[2]uint64{0, 0}, nil, nil},
		{[2]uint64{3, 0}, []nft.Bitten{{Addr: a, TooFast: 3}}, []nft.Bitten{{Addr: a, TooFast: 3}}},
		{[2]uint64{3, 0}, []nft.Bitten{{Addr: a, TooFast: 3}}, nil},
		{
			[2]uint64{5, 9},
			[]nft.Bitten{{Addr: a, TooFast: 5}, {Addr: b, TooMany: 9}},
			[]nft.Bitten{{Addr: b, TooMany: 9}, {Addr: a, TooFast: 2}},
		},
		{[2]uint64{1, 0}, []nft.Bitten{{Addr: a, TooFast: 1}}, []nft.Bitten{{Addr: a, TooFast: 1}}}, // a new table
	} {
		f.bites, f.members, told = step.bites, step.members, nil
		g.readBites(t.Context())
		if !slices.Equal(told, step.want) {
			t.Errorf("%v: told %+v, want %+v", step.bites, told, step.want)
		}
	}
	if s := g.Status(); s.TooFast != 6 || s.TooMany != 9 || s.LastBite.IsZero() {
		t.Errorf("counted %+v", s)
	}
	many := make([]nft.Bitten, 3*maxBites)
	for i := range many {
		a = a.Next()
		many[i] = nft.Bitten{Addr: a, TooFast: 1}
	}
	f.bites, f.members, told = [2]uint64{1000, 0}, many, nil
	g.readBites(t.Context())
	if len(told) != maxBites {
		t.Errorf("told of %d, want %d", len(told), maxBites)
	}
}

// What cannot be written is tried again with the next look, and said.
func TestGateThatCannotBeWritten(t *testing.T) {
	f := &fakeTable{add: errors.New("no buffer space")}
	g := newFakeGate(f)
	g.apply(t.Context(), operation{element: nft.Element{Addr: netip.MustParseAddr("192.0.2.7")}})
	if s := g.Status(); !g.broken || !s.Behind || s.Errors != 1 || s.LastError != "no buffer space" {
		t.Errorf("%+v, broken %v", s, g.broken)
	}
	f.add = nil
	g.inspect(t.Context(), nil)
	if s := g.Status(); g.broken || s.Behind || s.Rebuilds != 1 {
		t.Errorf("%+v, broken %v", s, g.broken)
	}
}

// Whom somebody else had put among the members is told to the owner, as far as it
// keeps that.
func TestIntruders(t *testing.T) {
	f := &fakeTable{}
	g := newFakeGate(f)
	var told []netip.Prefix
	g.owner.Intruded = func(_ context.Context, members []netip.Prefix, change string) {
		if change != "by whom" {
			t.Errorf("it was done %q", change)
		}
		told = members
	}
	g.compare(t.Context(), "by whom")
	if told != nil {
		t.Errorf("nobody was taken out, and %v are told", told)
	}
	for i := range maxIntruders + 1 {
		f.foreign = append(f.foreign, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32))
	}
	g.compare(t.Context(), "by whom")
	if !slices.Equal(told, f.foreign[:maxIntruders]) {
		t.Errorf("got %v, want all but one of %v", told, f.foreign)
	}
}

// Static members that change just before the gate is rebuilt change all the same: the
// members alone are those of the rebuild's snapshot.
func TestStaticMembersChangeDuringARebuild(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	f := &fakeTable{}
	g := newFakeGate(f)
	g.cfg.Static = []netip.Prefix{a, b}
	g.owner.Snapshot = func(context.Context) (Projection, error) {
		if len(*g.static.Load()) > 1 { // somebody denies a while the owner is asked
			g.restatic([]netip.Prefix{b})
		}
		p := Projection{generation: g.generation}
		g.generation++
		return p, nil
	}
	g.static.Store(&g.cfg.Static)
	g.Refresh()
	must(t, g.settled(t.Context()))
	if !slices.Equal(f.static, []netip.Prefix{b}) {
		t.Errorf("the kernel's static members are %v, want %v", f.static, b)
	}
}

// A static member that the kernel does not take keeps no other one in, and nobody is
// told that all is done.
func TestStaticMemberThatDoesNotFit(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	f := &fakeTable{unfit: netip.MustParsePrefix("10.0.0.0/8")}
	g := newFakeGate(f)
	g.cfg.Static = []netip.Prefix{a, b}
	g.restatic([]netip.Prefix{f.unfit, b})
	g.drain(t.Context())
	for range 2 {
		if err := g.settled(t.Context()); err == nil || !g.Status().Behind {
			t.Error("it is told that the gate holds what was decided")
		}
		if !slices.Equal(f.static, []netip.Prefix{b}) {
			t.Errorf("the kernel's static members are %v, want %v", f.static, b)
		}
	}
	g.restatic([]netip.Prefix{b})
	g.drain(t.Context())
	must(t, g.settled(t.Context()))
	// Nor does it keep the daemon from starting, where a denial took a part away.
	g = newFakeGate(f)
	g.cfg.Static = []netip.Prefix{a, b}
	must(t, g.Begin([]netip.Prefix{f.unfit, b}, Projection{}))
	if err := g.settled(t.Context()); err == nil || !slices.Equal(f.static, []netip.Prefix{b}) {
		t.Errorf("after the start: %v, the kernel's static members are %v, want %v", err, f.static, b)
	}
}

// A reload that began before a denial does not bring back what that took away.
func TestReloadBringsNoStaticMemberBack(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	f := &fakeTable{}
	g := newFakeGate(f)
	g.cfg.Static = []netip.Prefix{a, b}
	reload := g.cfg
	g.restatic([]netip.Prefix{b})
	g.drain(t.Context())
	must(t, g.change(t.Context(), reload))
	if err := g.settled(t.Context()); err != nil || !slices.Equal(f.static, []netip.Prefix{b}) {
		t.Errorf("%v, the kernel's static members are %v, want %v", err, f.static, b)
	}
}

// loadTable loads one member at a time.
type loadTable struct {
	fakeTable
	loaded []nft.Element
}

func (f *loadTable) Repair(want iter.Seq[nft.Element], between func() error) error {
	for e := range want {
		f.loaded = append(f.loaded, e)
		if err := between(); err != nil {
			return err
		}
	}
	return nil
}

// A member that may not stand in the gate keeps none of those out that are still to be
// loaded.
func TestRefusedMemberEndsNoLoad(t *testing.T) {
	f := &loadTable{fakeTable: fakeTable{add: fmt.Errorf("add: %w", nft.ErrElement)}}
	g := newFakeGate(&f.fakeTable)
	g.nft = f
	want := Projection{at: time.Now()}
	for a := netip.MustParseAddr("192.0.2.1"); len(want.members) < 3; a = a.Next() {
		want.members = append(want.members, nft.Element{Addr: a, Remaining: time.Minute})
	}
	g.ops <- operation{element: nft.Element{Addr: netip.MustParseAddr("2001:db8::7")}, generation: 1}
	if err := g.load(t.Context(), want, true); err != nil || len(f.loaded) != 3 {
		t.Errorf("%v; %v were loaded, want three", err, f.loaded)
	}
}

// Elements that are loaded late end no later for that.
func TestLateElementsEndInTime(t *testing.T) {
	f := &loadTable{}
	g := newFakeGate(&f.fakeTable)
	g.nft = f
	want := Projection{at: time.Now().Add(-10 * time.Second)}
	for i, left := range []time.Duration{time.Minute, 5 * time.Second} {
		want.members = append(want.members, nft.Element{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Timeout: time.Minute, Remaining: left})
	}
	must(t, g.load(t.Context(), want, true))
	if len(f.loaded) != 1 || f.loaded[0].Remaining > 50*time.Second || f.loaded[0].Remaining < 40*time.Second {
		t.Errorf("loaded %+v, want one with 50 s left", f.loaded)
	}
}

func TestElementsAlwaysRunOut(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.7/32")
	const lifetime = 30 * time.Minute
	for _, tt := range []struct {
		name  string
		until time.Time
		left  time.Duration // 0: no element
	}{
		{"login", now.Add(lifetime), lifetime},
		{"nearly over", now.Add(time.Millisecond), time.Millisecond},
		{"over", now, 0},
		{"long over", now.Add(-time.Hour), 0},
		{"no deadline", time.Time{}, 0},
	} {
		e, ok := element(prefix, tt.until, lifetime, now)
		if ok != (tt.left > 0) || e.Remaining != tt.left || ok && (e.Timeout <= 0 || e.Timeout < e.Remaining) {
			t.Errorf("%s: %+v, %v, want %v left", tt.name, e, ok, tt.left)
		}
	}
}

func TestGateQueueNeverWaits(t *testing.T) {
	g := &Gate{ops: make(chan operation, 1), lifetime: time.Minute}
	gr := grant.Grant{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Source: grant.Login, Expires: now.Add(time.Minute)}
	g.add(gr, now, false)
	if g.overflow.Load() {
		t.Error("the first op found no room")
	}
	g.remove(gr, now, grant.New(grant.Config{}))
	if !g.overflow.Load() {
		t.Error("an op was lost and no rebuild asked for")
	}
}

// The delay is that of logins that opened the gate: who extends a life that has not
// run out takes his time, and nobody waits for him.
func TestDelayIsOfLoginsThatOpen(t *testing.T) {
	g := newFakeGate(&fakeTable{})
	g.lifetime = time.Minute
	p, at := netip.MustParsePrefix("192.0.2.7/32"), time.Now()
	gr := grant.Grant{Prefix: p, Source: grant.Login, Expires: at.Add(time.Minute)}
	renew := func() {
		g.Write(nil, &grant.Change{Grant: gr, Kind: grant.Rearmed, Arm: true}, at)
		g.drain(t.Context())
	}
	renew()
	if s := g.Status(); s.Adds != 1 || s.LastDelay.Duration != 0 || s.MaxDelay.Duration != 0 {
		t.Errorf("renewed: %+v", s)
	}
	g.Admit(p, gr.Expires, at, at.Add(-time.Second))
	g.Flush(false)
	opened := g.Status()
	if opened.Adds != 2 || opened.LastDelay.Duration < time.Second || opened.MaxDelay != opened.LastDelay {
		t.Errorf("opened: %+v", opened)
	}
	renew()
	if s := g.Status(); s.Adds != 3 || s.LastDelay != opened.LastDelay || s.MaxDelay != opened.MaxDelay {
		t.Errorf("renewed later: %+v, want the delay of %+v", s, opened)
	}
}

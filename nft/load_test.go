package nft

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

func TestSync(t *testing.T) {
	for _, inPlace := range []bool{true, false} {
		t.Run(fmt.Sprintf("in place %v", inPlace), func(t *testing.T) {
			ns := bpftest.Namespace(t)
			g := openGate(t, filter(ns))
			if inPlace && !g.updates {
				lacks(t, 6, 13, "an element that can be updated")
			}
			g.updates = inPlace
			life := func(addr netip.Addr, left time.Duration) Element { return Element{addr, time.Hour, left} }
			want := []Element{
				life(member4, time.Minute), life(member6, time.Minute), life(static4A, 10*time.Minute),
				life(static6A, time.Minute), life(strange6, time.Minute),
			}
			// Without a table it makes one.
			added, _, _, err := g.Sync(want)
			if err != nil || added != len(want) {
				t.Fatalf("got %d added, %v, want %d", added, err, len(want))
			}
			rebuild(t, g, life(member4, time.Minute), life(static4A, time.Minute), life(static6A, 10*time.Minute), life(strange4, time.Minute))
			other := another(t, ns)
			commit(t, other, elementMessages(nil, unix.NFT_MSG_NEWSETELEM, own, allow6, []setElement{{key: neighbour6.AsSlice()}})...)
			added, renewed, removed, err := g.Sync(want)
			if err != nil || added != 2 || renewed != 2 || len(removed) != 2 {
				t.Errorf("got %d added, %d renewed, %v removed, %v, want 2 of each", added, renewed, removed, err)
			}
			for _, e := range want {
				if got, ok := held(t, g, e.Addr); !ok || !about(got.Remaining, e.Remaining) {
					t.Errorf("%s has %v left, want %v", e.Addr, got.Remaining, e.Remaining)
				}
			}
			if n := count(t, g, allow4) + count(t, g, allow6); n != len(want) {
				t.Errorf("got %d members, want %d", n, len(want))
			}
			added, renewed, removed, err = g.Sync(want)
			if err != nil || added+renewed+len(removed) != 0 {
				t.Errorf("a second time: got %d added, %d renewed, %v removed, %v", added, renewed, removed, err)
			}
			if _, _, _, err := g.Sync(append(refusedElements, want...)); !errors.Is(err, ErrElement) {
				t.Errorf("got %v, want ErrElement", err)
			}
		})
	}
}

// What others do to members is told, and Sync puts it right.
func TestForeignChangesOfMembers(t *testing.T) {
	ns := bpftest.Namespace(t)
	want := minute(member4, member6)
	for name, damage := range map[string][]setElementChange{
		"delete":      {{unix.NFT_MSG_DELSETELEM, allow4, member4}},
		"delete IPv6": {{unix.NFT_MSG_DELSETELEM, allow6, member6}},
		"add":         {{unix.NFT_MSG_NEWSETELEM, allow4, strange4}},
	} {
		t.Run(name, func(t *testing.T) {
			g := openGate(t, filter(ns))
			rebuild(t, g, want...)
			w := watch(t, g)
			other := another(t, ns)
			// That of another table is none of ours.
			commit(t, other, tableMessages(mine)...)
			for got := change(t, w); got.Members; got = change(t, w) {
				t.Errorf("got %+v for another table", got)
			}
			for _, d := range damage {
				commit(t, other, elementMessages(nil, d.kind, own, d.set, []setElement{{key: d.addr.AsSlice()}})...)
			}
			if got := change(t, w); !got.Members || got.Process == "" {
				t.Errorf("got %+v, want that members were changed, and by whom", got)
			}
			if err := g.Check(); err != nil {
				t.Errorf("the ruleset is as it was: %v", err)
			}
			added, renewed, removed, err := g.Sync(want)
			if err != nil || added+renewed+len(removed) != 1 {
				t.Errorf("got %d added, %d renewed, %v removed, %v, want one", added, renewed, removed, err)
			}
			if n := count(t, g, allow4) + count(t, g, allow6); n != 2 {
				t.Errorf("got %d members, want 2", n)
			}
		})
	}
}

type setElementChange struct {
	kind uint16
	set  string
	addr netip.Addr
}

func TestLoad(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	for _, n := range []int{0, 1, 999, 1000, 1001, 5000} {
		calls := 0
		urgent := nth4(1 << 20)
		err := g.Load(many(n), func() error {
			calls++
			return g.Add(minute(urgent)...)
		})
		must(t, err)
		if want := max(1, (n+chunk-1)/chunk); calls != want {
			t.Errorf("%d: got %d calls between, want %d", n, calls, want)
		}
		list := slices.Collect(many(n))
		if got := holds(t, g, append(list, minute(urgent)...)); got != n+1 {
			t.Errorf("got %d elements, want %d", got, n+1)
		}
		must(t, g.Check())
	}
	stop := errors.New("stop")
	if err := g.Load(many(5000), func() error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want what between returned", err)
	}
	if err := g.Load(slices.Values(append(minute(member4), refusedElements...)), nil); !errors.Is(err, ErrElement) {
		t.Errorf("got %v, want ErrElement", err)
	}
	if _, ok := held(t, g, member4); !ok {
		t.Error("built without those that are not refused")
	}
}

// many are n members, each another.
func many(n int) iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for i := 0; i < n && yield(Element{nth4(i), time.Hour, time.Hour}); i++ {
		}
	}
}

const million = 1_000_000

func BenchmarkLoadMillion(b *testing.B) {
	g := openGate(b, filter(bpftest.Namespace(b)))
	for b.Loop() {
		must(b, g.Load(many(million), nil))
	}
	b.ReportMetric(float64(b.N*million)/b.Elapsed().Seconds(), "adds/s")
}

func BenchmarkAddAtMillion(b *testing.B) {
	g := openGate(b, filter(bpftest.Namespace(b)))
	must(b, g.Load(many(million), nil))
	i := million
	for b.Loop() {
		// Each is new; the set has room for 48,576 more.
		i = million + (i+1)%40_000
		must(b, g.Add(Element{nth4(i), time.Hour, time.Hour}))
		b.StopTimer()
		must(b, g.Remove(nth4(i)))
		b.StartTimer()
	}
}

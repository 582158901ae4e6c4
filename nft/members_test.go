package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// held returns what the kernel holds for addr, and false if nothing.
func held(t testing.TB, g *Gate, addr netip.Addr) (Element, bool) {
	t.Helper()
	elements, err := g.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range elements {
		if e.Addr == addr {
			return e, true
		}
	}
	return Element{}, false
}

// about allows for the time that a busy machine takes.
func about(got, want time.Duration) bool { return got <= want && got > want-30*time.Second }

func TestAddExtendsAndNeverShortens(t *testing.T) {
	for _, inPlace := range []bool{true, false} {
		t.Run(fmt.Sprintf("in place %v", inPlace), func(t *testing.T) {
			g := openGate(t, filter(bpftest.Namespace(t)))
			if inPlace && !g.RenewsInPlace() {
				t.Skip("needs Linux 6.12, which can update an element")
			}
			g.updates = inPlace
			rebuild(t, g)
			steps := []struct {
				why                string
				timeout, remaining time.Duration
				want               time.Duration
			}{
				{"new", 10 * time.Minute, 2 * time.Minute, 2 * time.Minute},
				{"the same timeout, more left", 10 * time.Minute, 5 * time.Minute, 5 * time.Minute},
				{"the same timeout, all of it", 10 * time.Minute, 10 * time.Minute, 10 * time.Minute},
				{"less left", 10 * time.Minute, time.Minute, 10 * time.Minute},
				{"a shorter life", time.Minute, time.Minute, 10 * time.Minute},
				{"a longer life", time.Hour, 20 * time.Minute, 20 * time.Minute},
				{"an all but finished one", time.Hour, time.Nanosecond, 20 * time.Minute},
			}
			for _, s := range steps {
				for _, addr := range []netip.Addr{member4, member6} {
					// One that is new joins each: it must not be in the way.
					fresh := Element{addr.Next().Next().Next().Next(), time.Hour, time.Minute}
					if err := g.Remove(fresh.Addr); err != nil {
						t.Fatal(err)
					}
					if err := g.Add(Element{addr, s.timeout, s.remaining}, fresh); err != nil {
						t.Fatalf("%s: %v", s.why, err)
					}
					if got, ok := held(t, g, addr); !ok || !about(got.Remaining, s.want) {
						t.Errorf("%s: %s has %v left, want %v", s.why, addr, got.Remaining, s.want)
					}
					if got, ok := held(t, g, fresh.Addr); !ok || !about(got.Remaining, time.Minute) {
						t.Errorf("%s: the new member has %v left, want 1m", s.why, got.Remaining)
					}
				}
			}
			if got, _ := held(t, g, member4); got.Timeout != time.Hour {
				t.Errorf("got a life of %v, want that of the last renewal, 1h", got.Timeout)
			}
		})
	}
}

// What a Gate adds always ends: the shortest life must not round to none.
func TestNoElementIsPermanent(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	rebuild(t, g)
	for _, life := range []time.Duration{1, time.Microsecond, time.Millisecond, 3 * time.Millisecond, tick, MaxTimeout} {
		members, err := g.cfg.members([]Element{{member4, life, life}})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Add(Element{member4, life, life}); err != nil {
			t.Fatalf("%v: %v", life, err)
		}
		left, err := g.conn.remaining(Table, members)
		if err != nil {
			t.Fatal(err)
		}
		if left[0] > max(life, tick) {
			t.Errorf("life of %v: got %v left", life, left[0])
		}
		if err := g.Remove(member4); err != nil {
			t.Fatal(err)
		}
	}
}

// An administrator's own element without a timeout is neither shortened nor
// taken for one of ours.
func TestForeignPermanentElement(t *testing.T) {
	ns := bpftest.Namespace(t)
	g := openGate(t, filter(ns))
	rebuild(t, g)
	commit(t, another(t, ns), elementMessages(nil, unix.NFT_MSG_NEWSETELEM, Table, allow4, []setElement{{key: member4.AsSlice()}})...)
	if err := g.Add(minute(member4)...); err != nil {
		t.Fatal(err)
	}
	if e, ok := held(t, g, member4); ok {
		t.Errorf("Read returned %v, want nothing", e)
	}
	if n := count(t, g, allow4); n != 1 {
		t.Errorf("got %d elements, want 1", n)
	}
}

func TestAddRefuses(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	rebuild(t, g)
	for _, e := range refusedElements {
		if err := g.Add(append(minute(member4), e)...); !errors.Is(err, ErrElement) {
			t.Errorf("%v: got %v, want ErrElement", e, err)
		}
	}
	if _, ok := held(t, g, member4); ok {
		t.Error("a member was added beside one that was refused")
	}
}

func TestAddFull(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	g.ruleset = declare(g.cfg, 2)
	rebuild(t, g, minute(member4)...)
	if err := g.Add(minute(static4A, strange4)...); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if n := count(t, g, allow4); n != 1 {
		t.Errorf("got %d elements after an Add that failed, want 1", n)
	}
	// The answers to what failed are not taken for those to what follows.
	if err := g.Add(minute(strange4)...); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	if err := g.Remove(member4); err != nil {
		t.Errorf("without a table: %v", err)
	}
	rebuild(t, g, minute(member4, member6)...)
	if err := g.Remove(strange4, member4, strange6, netip.AddrFrom16(member4.As16())); err != nil {
		t.Errorf("some that are not there: %v", err)
	}
	if _, ok := held(t, g, member4); ok {
		t.Error("it is still there")
	}
	if _, ok := held(t, g, member6); !ok {
		t.Error("another one is gone")
	}
	if err := g.Remove(netip.Addr{}, member6); !errors.Is(err, ErrElement) {
		t.Errorf("no address: got %v, want ErrElement", err)
	}
	if _, ok := held(t, g, member6); ok {
		t.Error("an address that was refused kept the next one in")
	}
}

func TestRead(t *testing.T) {
	ns := bpftest.Namespace(t)
	wide := filter(ns)
	wide.IPv6Prefix = 64
	g := openGate(t, wide)
	if got, err := g.Read(); err != nil || len(got) != 0 {
		t.Errorf("without a table: got %v, %v", got, err)
	}
	translated := netip.MustParseAddr("64:ff9b::c000:207")
	rebuild(t, g, minute(member4, memberNet6, neighbour6, translated)...)
	for _, want := range []netip.Addr{member4, netip.MustParseAddr("2001:db8:64::"), translated} {
		if e, ok := held(t, g, want); !ok || e.Timeout != time.Hour || !about(e.Remaining, time.Minute) {
			t.Errorf("got %v for %s, want 1m of 1h", e, want)
		}
	}
	got, err := g.Read()
	if err != nil || len(got) != 3 {
		t.Errorf("got %v, %v: want 3 elements (static ones are none)", got, err)
	}
	// To another Gate, the first address of a network is nobody's.
	narrow := openGate(t, filter(ns))
	if got, err := narrow.Read(); err != nil || len(got) != 2 {
		t.Errorf("without /64: got %v, %v: want 2 elements", got, err)
	}
}

func TestRebuildCounts(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	for _, n := range []int{0, 1, 999, 1000, 1001, 2500, 70000} {
		want := make([]Element, 0, 2*n)
		for i := range n {
			want = append(want, minute(nth4(i), nth6(i))...)
		}
		start := time.Now()
		if err := g.Rebuild(want); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		t.Logf("%d IPv4 and as many IPv6 members in %v", n, time.Since(start))
		for _, set := range []string{allow4, allow6} {
			if got := count(t, g, set); got != n {
				t.Errorf("%s: got %d elements, want %d", set, got, n)
			}
		}
		if err := g.Check(); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func nth4(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i))))
}

func nth6(i int) netip.Addr {
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(b[12:], uint32(i))
	return netip.AddrFrom16(b)
}

// count lists a set. Listing under nobody's writes repeats nothing.
func count(t testing.TB, g *Gate, set string) (n int) {
	t.Helper()
	err := g.conn.list(listElements(Table, set), func(m netlink.Message) error {
		members, err := parseElements(m)
		n += len(members)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A Rebuild that fails leaves the table as it was, to the last element.
func TestRebuildIsOneTransaction(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	rebuild(t, g, minute(member4, member6)...)
	good := g.ruleset
	many := make([]Element, 0, 3001)
	for i := range 3001 {
		many = append(many, minute(nth4(i))...)
	}
	faults := map[string]ruleset{
		"one element more than the set holds": declare(g.cfg, 3000),
		"a rule that jumps nowhere": {sets: good.sets, chains: append(filterChains(),
			chain{name: "broken", rules: []rule{{expressions: jump("nowhere")}}})},
		"a key of the wrong length": {sets: append([]set{{name: "broken", key: ipv4Addr, elements: []setElement{{key: []byte{1}}}}}, good.sets...)},
	}
	for name, fault := range faults {
		g.ruleset = fault
		if err := g.Rebuild(many); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if err := g.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := count(t, g, allow4) + count(t, g, allow6); n != 2 {
			t.Errorf("%s: got %d elements, want the 2 from before", name, n)
		}
	}
	g.ruleset = good
	rebuild(t, g, many...)
	if n := count(t, g, allow4); n != len(many) {
		t.Errorf("got %d elements after the repair, want %d", n, len(many))
	}
}

func TestRebuildBuildsWithoutTheRefused(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	if err := g.Rebuild(append(minute(member4), refusedElements...)); !errors.Is(err, ErrElement) {
		t.Errorf("got %v, want ErrElement", err)
	}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
	if n := count(t, g, allow4); n != 1 {
		t.Errorf("got %d members, want 1", n)
	}
	// To have run out meanwhile is no mistake.
	rebuild(t, g, Element{member4, time.Hour, 0}, Element{strange4, time.Hour, -time.Second})
	if n := count(t, g, allow4); n != 0 {
		t.Errorf("got %d members, want none", n)
	}
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// held returns what the kernel holds for addr, and false if nothing.
func held(t testing.TB, g *Gate, addr netip.Addr) (Element, bool) {
	t.Helper()
	elements, err := g.Read()
	must(t, err)
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
			if inPlace && !g.updates {
				lacks(t, 6, 13, "an element that can be updated")
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
					must(t, g.Remove(fresh.Addr))
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
		must(t, err)
		if err := g.Add(Element{member4, life, life}); err != nil {
			t.Fatalf("%v: %v", life, err)
		}
		left, err := g.conn.remaining(own, members)
		must(t, err)
		if left[0] > max(life, tick) {
			t.Errorf("life of %v: got %v left", life, left[0])
		}
		must(t, g.Remove(member4))
	}
}

// An administrator's own element without a timeout is neither shortened nor
// taken for one of ours.
func TestForeignPermanentElement(t *testing.T) {
	ns := bpftest.Namespace(t)
	g := openGate(t, filter(ns))
	rebuild(t, g)
	commit(t, another(t, ns), elementMessages(nil, unix.NFT_MSG_NEWSETELEM, own, allow4, []setElement{{key: member4.AsSlice()}})...)
	must(t, g.Add(minute(member4)...))
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
	must(t, g.Add(minute(strange4)...))
}

func TestRemove(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	if err := g.Remove(member4); err != nil {
		t.Errorf("without a table: %v", err)
	}
	rebuild(t, g, minute(member4, member6)...)
	for _, addr := range []netip.Addr{strange4, member4, strange6, netip.AddrFrom16(member4.As16())} {
		if err := g.Remove(addr); err != nil {
			t.Errorf("%v, which need not be there: %v", addr, err)
		}
	}
	if _, ok := held(t, g, member4); ok {
		t.Error("it is still there")
	}
	if _, ok := held(t, g, member6); !ok {
		t.Error("another one is gone")
	}
	if err := g.Remove(netip.Addr{}); !errors.Is(err, ErrElement) {
		t.Errorf("no address: got %v, want ErrElement", err)
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

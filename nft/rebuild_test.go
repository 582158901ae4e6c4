package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"

	"relaygate/bpf/bpftest"
)

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
		if got := holds(t, g, want); got != len(want) {
			t.Errorf("got %d elements, want %d", got, len(want))
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

// holds counts those of elements that the kernel has. It asks for each, as a
// listing repeats and leaves out some while a set's hash table is resized.
func holds(t testing.TB, g *Gate, elements []Element) (n int) {
	t.Helper()
	members, err := g.cfg.members(elements)
	must(t, err)
	for window := range slices.Chunk(members, 64) {
		left, err := g.conn.remaining(own, window)
		must(t, err)
		for _, d := range left {
			if d != absent {
				n++
			}
		}
	}
	return n
}

// count lists a set of a few elements.
func count(t testing.TB, g *Gate, set string) (n int) {
	t.Helper()
	err := g.conn.list(listElements(g.table, set), func(m netlink.Message) error {
		members, err := parseElements(m)
		n += len(members)
		return err
	})
	must(t, err)
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
		"a rule that jumps nowhere": {sets: good.sets, chains: append(filterChains(g.cfg),
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
	if n := holds(t, g, many); n != len(many) {
		t.Errorf("got %d elements after the repair, want %d", n, len(many))
	}
}

func TestRebuildBuildsWithoutTheRefused(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	if err := g.Rebuild(append(minute(member4), refusedElements...)); !errors.Is(err, ErrElement) {
		t.Errorf("got %v, want ErrElement", err)
	}
	must(t, g.Check())
	if n := count(t, g, allow4); n != 1 {
		t.Errorf("got %d members, want 1", n)
	}
	// To have run out meanwhile is no mistake.
	rebuild(t, g, Element{member4, time.Hour, 0}, Element{strange4, time.Hour, -time.Second})
	if n := count(t, g, allow4); n != 0 {
		t.Errorf("got %d members, want none", n)
	}
}

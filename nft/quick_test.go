package nft

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// The quick transaction says what the usual one says.
func TestQuickSaysTheSame(t *testing.T) {
	cfg := Config{IPv6Prefix: 64}
	for _, addrs := range [][]netip.Addr{
		{member4},
		{member6},
		{member4, strange4, static4A},
		{member4, member6, strange4, strange6, netip.MustParseAddr("2001::1")},
	} {
		var elements []Element
		for i, a := range addrs {
			elements = append(elements, Element{a, time.Hour, time.Duration(i+1) * time.Minute})
		}
		members, err := cfg.members(elements)
		must(t, err)
		usual := memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, members)
		for i := range usual {
			usual[i].Header.Flags |= netlink.Excl
		}
		usual = slices.Concat([]netlink.Message{batchEdge(unix.NFNL_MSG_BATCH_BEGIN)}, usual,
			[]netlink.Message{batchEdge(unix.NFNL_MSG_BATCH_END)})

		q := &quick{sequence: 7}
		q.encode(own, members)
		var got []netlink.Message
		for b := q.request; len(b) > 0; {
			var m netlink.Message
			length := int(nlenc(b))
			must(t, m.UnmarshalBinary(b[:length]))
			m.Header.Length, m.Header.Sequence = 0, 0
			got = append(got, m)
			b = b[length:]
		}
		if diff := cmp.Diff(usual, got); diff != "" {
			t.Errorf("%v: %s", addrs, diff)
		}
	}
}

// nlenc reads the length of a message.
func nlenc(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// Silence of the kernel means that it did what was asked, and of all: what it
// refuses it answers. Nobody is woken for a success.
func TestQuickTakesSilenceForSuccess(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	members := func(addrs ...netip.Addr) []member {
		var list []Element
		for _, a := range addrs {
			list = append(list, Element{a, time.Hour, time.Hour})
		}
		m, err := g.cfg.members(list)
		must(t, err)
		return m
	}
	if err := g.quick.add(g.table, members(member4)); !errors.Is(err, errNotQuick) {
		t.Errorf("without a table: %v", err)
	}
	rebuild(t, g)
	must(t, g.quick.add(g.table, members(member4, member6)))
	for _, a := range []netip.Addr{member4, member6} {
		if _, ok := held(t, g, a); !ok {
			t.Errorf("%s: silence, and it is not held", a)
		}
	}
	for _, refused := range [][]netip.Addr{{member4}, {strange4, member4}, {strange4, member6}, {member4, member6}} {
		if err := g.quick.add(g.table, members(refused...)); !errors.Is(err, errNotQuick) {
			t.Errorf("%v is held already: %v", refused, err)
		}
		if err := g.Check(); err != nil { // reads what is left of the answers
			t.Fatal(err)
		}
		if _, ok := held(t, g, strange4); ok {
			t.Error("one of two was added although the other was refused")
		}
	}
	table := g.table
	table.name = "none"
	if err := g.quick.add(table, members(strange4)); !errors.Is(err, errNotQuick) {
		t.Errorf("another table: %v", err)
	}
}

// What the kernel refuses is told as before, and leaves nothing behind on the
// socket.
func TestQuickFallsBack(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	if err := g.Add(minute(member4)...); !errors.Is(err, ErrTableGone) {
		t.Errorf("without a table: %v", err)
	}
	rebuild(t, g, minute(member4)...)
	hour := func(a netip.Addr) Element { return Element{a, time.Hour, time.Hour} }
	must(t, g.Add(hour(strange4), hour(member4), hour(member6)))
	for _, a := range []netip.Addr{member4, strange4, member6} {
		if got, ok := held(t, g, a); !ok || !about(got.Remaining, time.Hour) {
			t.Errorf("%s: %+v, %v, want an hour left", a, got, ok)
		}
	}
	if err := g.Add(hour(netip.MustParseAddr("fe80::1%eth0")), hour(static4A)); !errors.Is(err, ErrElement) {
		t.Errorf("an address of one link: %v", err)
	}
	if _, ok := held(t, g, static4A); ok {
		t.Error("one of two was added although the other was refused")
	}
	must(t, g.Check())
}

package nft

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// What a gate that nobody keeps lets in is told, for each mode, and nothing changes.
func TestLook(t *testing.T) {
	beside := netip.MustParseAddr("2001:db8::9:1")
	static := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:7::/48")}
	for _, tt := range []struct {
		mode  Mode
		wide  int
		rules bool
	}{{Observe, 128, false}, {Filter, 128, true}, {Filter, 64, true}, {Redirect, 128, true}, {Mark, 128, true}} {
		ns := bpftest.Namespace(t)
		cfg := Config{
			Mode: tt.mode, Ports: []uint16{25}, Static: static, IPv6Prefix: tt.wide,
			RelayPort: 925, Mark: 1 << 20, Netns: ns.FD(),
		}
		look := func(a netip.Addr) Sight {
			t.Helper()
			s, err := Look(cfg, a)
			if err != nil {
				t.Fatalf("%s: %v", tt.mode, err)
			}
			return s
		}
		if got := look(member4); got != (Sight{}) {
			t.Errorf("%s: without a table: %+v", tt.mode, got)
		}
		g := openGate(t, cfg)
		rebuild(t, g, Element{member4, time.Hour, 10 * time.Minute}, Element{member6, time.Hour, 20 * time.Minute})
		before, err := g.conn.inventory(own)
		must(t, err)
		for _, who := range []struct {
			addr           netip.Addr
			left           time.Duration
			member, static bool
		}{
			{member4, 10 * time.Minute, true, false},
			{netip.AddrFrom16(member4.As16()), 10 * time.Minute, true, false}, // IPv4-mapped
			{member6, 20 * time.Minute, true, false},
			{beside, 20 * time.Minute, tt.wide == 64, false}, // in its /64
			{netip.MustParseAddr("203.0.113.200"), 0, false, false},
			{netip.MustParseAddr("198.51.100.77"), 0, false, true},
			{netip.MustParseAddr("198.51.101.0"), 0, false, false}, // the range's end
			{netip.MustParseAddr("2001:db8:7::1"), 0, false, true},
			{netip.MustParseAddr("2001:db8:8::"), 0, false, false},
			{netip.MustParseAddr("::1"), 0, false, true},
			{netip.MustParseAddr("fe80::1%eth0"), 0, false, false},
			{netip.Addr{}, 0, false, false},
		} {
			got := look(who.addr)
			if !got.Table || got.Rules != tt.rules || got.Member != who.member || got.Static != who.static || who.member && !about(got.Left, who.left) {
				t.Errorf("%s, /%d: %s: %+v", tt.mode, tt.wide, who.addr, got)
			}
		}
		after, err := g.conn.inventory(own)
		if err != nil || compare(before, after) != nil {
			t.Errorf("%s: the table has changed: %v, %v", tt.mode, err, compare(before, after))
		}
	}
}

// Sets of the administrator's are looked at too; an element without a timeout stays.
func TestLookAtUserSets(t *testing.T) {
	ns := bpftest.Namespace(t)
	cfg := Config{Mode: UserSets, Netns: ns.FD(), Sets: Sets{Family: "inet", Table: "filter", Allow4: "allow4"}}
	if got, err := Look(cfg, member4); err != nil || got != (Sight{}) {
		t.Errorf("without a table: %+v, %v", got, err)
	}
	c := another(t, ns)
	table := tableID{families["inet"], "filter"}
	addTable(t, c, "filter", ruleset{sets: []set{{name: "allow4", key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT}}})
	if got, err := Look(cfg, member4); err != nil || got != (Sight{Table: true}) {
		t.Errorf("empty sets: %+v, %v", got, err)
	}
	list := []setElement{{key: member4.AsSlice()}}
	commit(t, c, elementMessages(nil, unix.NFT_MSG_NEWSETELEM, table, "allow4", list)...)
	if got, err := Look(cfg, member4); err != nil || got != (Sight{Table: true, Member: true}) {
		t.Errorf("a member for ever: %+v, %v", got, err)
	}
	if got, err := Look(cfg, member6); err != nil || got != (Sight{Table: true}) {
		t.Errorf("no set for IPv6: %+v, %v", got, err)
	}
}

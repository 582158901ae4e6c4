package nft

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

var mine = tableID{unix.NFPROTO_INET, "mine"}

// ownSets is what an administrator has: sets, and a filter of his own.
func ownSets() ruleset {
	r := declare(Config{Mode: Filter, Ports: []uint16{25}, IPv6Prefix: 64}, 1000)
	return r
}

func userSets(ns *netns.Namespace) Config {
	return Config{
		Mode: UserSets, Sets: Sets{"inet", "mine", allow4, allow6, net6}, Netns: ns.FD(),
		Static: []netip.Prefix{netip.PrefixFrom(static4A, 32), netip.PrefixFrom(static6A, 128)},
	}
}

func TestUserSets(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	other := another(t, w.server)
	addTable(t, other, "mine", ownSets())
	g := openGate(t, userSets(w.server))
	rebuild(t, g, minute(member4, member6)...)
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.passes)
	}
	must(t, g.Check())
	if got, err := g.Read(); len(got) != 0 || err != nil {
		t.Errorf("read %v, %v: want none, as they may be another's", got, err)
	}
	must(t, g.Add(minute(strange4)...))
	w.expect(t, "new member", strange4, server4, 25, true)
	must(t, g.CloseAll(minute(strange4, member4)...))
	w.expect(t, "removed member", strange4, server4, 25, false)
	w.expect(t, "removed member", member4, server4, 25, false)

	// A static member that somebody removed is back with the next look.
	commit(t, other, memberMessages(nil, unix.NFT_MSG_DELSETELEM, mine, []member{{set: allow4, key: static4A}})...)
	w.expect(t, "static member without an element", static4A, server4, 25, false)
	must(t, g.Check())
	w.expect(t, "static member", static4A, server4, 25, true)

	// What the administrator added for ever, stays.
	commit(t, other, elementMessages(nil, unix.NFT_MSG_NEWSETELEM, mine, allow4, []setElement{{key: strange4.AsSlice()}})...)
	must(t, errors.Join(g.Add(minute(strange4)...), g.Remove(strange4)))
	w.expect(t, "the administrator's own", strange4, server4, 25, true)

	// A set that was made again is empty.
	addTable(t, other, "mine", ownSets())
	if err := g.Check(); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v, want ErrChanged", err)
	}
	rebuild(t, g, minute(member6)...)
	w.expect(t, "member", member6, server6, 25, true)
	must(t, g.Delete())
	w.expect(t, "stranger", strange6, server6, 25, false)
}

func TestUserSetsThatAreWrong(t *testing.T) {
	ns := bpftest.Namespace(t)
	other := another(t, ns)
	good := set{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT}
	for name, s := range map[string]set{
		"no set":          {name: "another", key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT},
		"ports":           {name: allow4, key: inetService, flags: unix.NFT_SET_TIMEOUT},
		"IPv6 addresses":  {name: allow4, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT},
		"without timeout": {name: allow4, key: ipv4Addr},
		"ranges":          {name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_INTERVAL},
	} {
		addTable(t, other, "mine", ruleset{sets: []set{s}})
		g := openGate(t, Config{Mode: UserSets, Sets: Sets{"inet", "mine", allow4, "", ""}, Netns: ns.FD()})
		err := g.Rebuild(minute(member4))
		if !errors.Is(err, ErrSets) || !strings.Contains(err.Error(), "set allow4 in table inet mine: want one of { type ipv4_addr; flags timeout; }") {
			t.Errorf("%s: got %v, want ErrSets with the set that is wanted", name, err)
		}
		t.Log(err)
		addTable(t, other, "mine", ruleset{sets: []set{good}})
		rebuild(t, g, minute(member4)...)
		if err := g.Add(minute(member6)...); !errors.Is(err, ErrElement) {
			t.Errorf("without a set for IPv6: got %v, want ErrElement", err)
		}
	}
	// One that was made anew with ranges while others were in: a single element would
	// open all addresses behind it.
	g := openGate(t, Config{Mode: UserSets, Sets: Sets{"inet", "mine", allow4, "", ""}, Netns: ns.FD()})
	rebuild(t, g, minute(member4)...)
	ranges := good
	ranges.flags |= unix.NFT_SET_INTERVAL
	addTable(t, other, "mine", ruleset{sets: []set{ranges}})
	many := slices.Values(minute(member4, strange4))
	for name, err := range map[string]error{"add": g.Add(minute(strange4)...), "load": g.Load(many, nil)} {
		if !errors.Is(err, ErrSets) {
			t.Errorf("%s: got %v, want ErrSets", name, err)
		}
	}
	if n := count(t, g, allow4); n != 0 {
		t.Errorf("%d elements are in a set of ranges", n)
	}
	commit(t, other, flushRuleset())
	g = openGate(t, Config{Mode: UserSets, Sets: Sets{"inet", "mine", allow4, "", ""}, Netns: ns.FD()})
	if err := g.Rebuild(nil); !errors.Is(err, ErrSets) {
		t.Errorf("no table: got %v, want ErrSets", err)
	}
}

func TestUserSetsConfig(t *testing.T) {
	sets := Sets{"inet", "mine", "a", "b", "c"}
	good := Config{Mode: UserSets, Sets: sets}
	if _, err := good.validate(); err != nil {
		t.Error(err)
	}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for name, cfg := range map[string]Config{
		"no table":             {Sets: Sets{"inet", "", "a", "", ""}},
		"no set":               {Sets: Sets{"inet", "mine", "", "", ""}},
		"no family":            {Sets: Sets{"", "mine", "a", "", ""}},
		"a family of links":    {Sets: Sets{"bridge", "mine", "a", "", ""}},
		"the gate's table":     {Sets: Sets{"inet", Table, "a", "", ""}},
		"no set for networks":  {Sets: Sets{"inet", "mine", "a", "b", ""}, IPv6Prefix: 64},
		"a wide static range":  {Sets: sets, Static: prefix("10.0.0.0/8")},
		"a wide IPv6 range":    {Sets: sets, Static: prefix("2001:db8::/32")},
		"between /64 and /120": {Sets: sets, Static: prefix("2001:db8::/96")},
	} {
		cfg.Mode = UserSets
		if _, err := cfg.validate(); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestStaticMembersOfUserSets(t *testing.T) {
	cfg := Config{Mode: UserSets, Sets: Sets{"inet", "mine", "a", "b", "c"}, Static: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/30"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("2001:db8::/127"), netip.MustParsePrefix("2001:db8::/63"),
	}}
	got := make(map[string]int)
	for _, m := range staticMembers(cfg) {
		got[m.set]++
		if m.timeout != time.Hour || m.remaining != time.Hour {
			t.Errorf("%v: want a life of an hour", m)
		}
	}
	if got["a"] != 5 || got["b"] != 2 || got["c"] != 2 {
		t.Errorf("got %v, want 5 IPv4 addresses, 2 of IPv6 and 2 networks", got)
	}
}

// What is wanted no more is taken out at once, and nothing else is touched.
func TestReconfigureWithinUserSets(t *testing.T) {
	w := newWorld(t)
	serve(t, w.server, 25)
	addTable(t, another(t, w.server), "mine", ownSets())
	cfg := userSets(w.server)
	g := openGate(t, cfg)
	want := minute(member4, memberNet6)
	rebuild(t, g, want...)

	fewer := cfg
	fewer.Static = cfg.Static[:1]
	must(t, g.Reconfigure(fewer, append(want, minute(static4A)...)))
	for _, c := range who {
		w.expect(t, c.name, c.from, c.to, 25, c.from == member4 || c.from == static4A)
	}
	none := cfg
	none.Static = nil
	must(t, g.Reconfigure(none, append(want, minute(static4A)...)))
	members, err := g.cfg.members(minute(static4A))
	must(t, err)
	if left, err := g.conn.remaining(g.table, members); err != nil || !about(left[0], time.Minute) {
		t.Errorf("a member who was static has %v left, %v, want 1m", left, err)
	}

	wide := none
	wide.IPv6Prefix = 64
	for _, cfg := range []Config{wide, none} {
		must(t, g.Reconfigure(cfg, want))
		w.expect(t, "member", member4, server4, 25, true)
		w.expect(t, "member", memberNet6, serverNet6, 25, true)
		w.expect(t, "neighbour", neighbour6, serverNet6, 25, cfg.IPv6Prefix == 64)
	}
}

// The set of networks need not be there unless a member can be one.
func TestUserSetsWithoutNetworks(t *testing.T) {
	ns := bpftest.Namespace(t)
	addTable(t, another(t, ns), "mine", ruleset{sets: []set{
		{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT}, {name: allow6, key: ipv6Addr, flags: unix.NFT_SET_TIMEOUT},
	}})
	cfg := userSets(ns)
	g := openGate(t, cfg)
	rebuild(t, g, minute(member4, member6)...)
	must(t, g.Check())
	cfg.Static = []netip.Prefix{netip.MustParsePrefix("2001:db8:64::/64")}
	if err := openGate(t, cfg).Rebuild(nil); !errors.Is(err, ErrSets) {
		t.Errorf("a static network without its set: %v, want ErrSets", err)
	}
	cfg.Static, cfg.IPv6Prefix = nil, 64
	if err := openGate(t, cfg).Rebuild(nil); !errors.Is(err, ErrSets) {
		t.Errorf("networks without their set: %v, want ErrSets", err)
	}
}

// Of more members than a set of the administrator's has room for, as many are in as
// can be, and the next as soon as one has left; the other set does not matter.
func TestUserSetsFull(t *testing.T) {
	ns := bpftest.Namespace(t)
	addTable(t, another(t, ns), "mine", declare(Config{Mode: Filter, Ports: []uint16{25}, IPv6Prefix: 64}, 5))
	g := openGate(t, Config{Mode: UserSets, Sets: Sets{"inet", "mine", allow4, allow6, net6}, Netns: ns.FD()})
	var crowd []netip.Addr
	for a := member4; len(crowd) < 9; a = a.Next() {
		crowd = append(crowd, a)
	}
	all := minute(append(crowd, member6)...)
	for _, build := range []func() error{
		func() error { return g.Rebuild(all) },
		func() error { return g.Load(slices.Values(all), nil) },
		func() error { _, _, _, err := g.Sync(all); return err },
	} {
		if err := build(); !errors.Is(err, ErrFull) || strings.Contains(err.Error(), "open files") {
			t.Errorf("got %v, want ErrFull", err)
		}
		if four, six := count(t, g, allow4), count(t, g, allow6); four != 5 || six != 1 {
			t.Errorf("%d and %d are in, want 5 and 1", four, six)
		}
		if err := g.Check(); err != nil {
			t.Errorf("what has no room is taken for a change: %v", err)
		}
		must(t, g.Remove(crowd[0]))
		all = all[1:]
		crowd = crowd[1:]
	}
	rebuild(t, g, all[:5]...) // there is room for all of them
}

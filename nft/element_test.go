package nft

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

var refusedElements = []Element{
	{},
	{Timeout: time.Hour, Remaining: time.Hour},
	{Addr: netip.MustParseAddr("fe80::1%eth0"), Timeout: time.Hour, Remaining: time.Hour},
	{Addr: netip.MustParseAddr("192.0.2.1"), Timeout: time.Hour, Remaining: time.Hour + 1},
	{Addr: netip.MustParseAddr("192.0.2.1"), Timeout: 0, Remaining: time.Hour},
	{Addr: netip.MustParseAddr("192.0.2.1"), Timeout: -time.Hour, Remaining: time.Hour},
	{Addr: netip.MustParseAddr("192.0.2.1"), Timeout: MaxTimeout + 1, Remaining: 1},
	{Addr: netip.MustParseAddr("192.0.2.1"), Timeout: 1<<63 - 1, Remaining: 1<<63 - 1},
}

func TestMemberRefuses(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::1")
	list := append([]Element{
		{addr, time.Hour, 0}, {addr, time.Hour, -1}, {addr, 0, 0}, {addr, -1, -1}, {addr, -2, -1},
	}, refusedElements...)
	for _, prefix := range []int{64, 128} {
		cfg := Config{IPv6Prefix: prefix}
		for _, e := range list {
			if m, err := cfg.member(e); !errors.Is(err, ErrElement) {
				t.Errorf("%v: got %v, %v; want ErrElement", e, m, err)
			}
		}
	}
}

func TestPlace(t *testing.T) {
	tests := []struct {
		addr   string
		prefix int
		set    string
		key    string
	}{
		{"192.0.2.1", 128, allow4, "192.0.2.1"},
		{"192.0.2.1", 64, allow4, "192.0.2.1"},
		{"::ffff:192.0.2.1", 128, allow4, "192.0.2.1"},
		{"::ffff:192.0.2.1", 64, allow4, "192.0.2.1"},
		{"2001:db8::1:2:3:4", 128, allow6, "2001:db8::1:2:3:4"},
		{"2001:db8::1:2:3:4", 64, net6, "2001:db8::"},
		// Networks that many share are not widened.
		{"64:ff9b::192.0.2.1", 64, allow6, "64:ff9b::192.0.2.1"},
		{"64:ff9b::1:0:0", 64, allow6, "64:ff9b::1:0:0"}, // its /64 holds the /96
		{"64:ff9b:0:1::1", 64, net6, "64:ff9b:0:1::"},
		{"64:ff9b:1:ffff::1", 64, allow6, "64:ff9b:1:ffff::1"},
		{"64:ff9b:2::1", 64, net6, "64:ff9b:2::"},
		{"2001:0:1:2:3:4:5:6", 64, allow6, "2001:0:1:2:3:4:5:6"},
		{"2001:1::1", 64, net6, "2001:1::"},
	}
	for _, tt := range tests {
		set, key, err := (&Config{IPv6Prefix: tt.prefix}).place(netip.MustParseAddr(tt.addr))
		if err != nil || set != tt.set || key != netip.MustParseAddr(tt.key) {
			t.Errorf("%s with /%d: got %s in %s, %v; want %s in %s", tt.addr, tt.prefix, key, set, err, tt.key, tt.set)
		}
	}
}

// Two elements for one key would leave it to the kernel which one counts.
func TestMembersKeepTheLongest(t *testing.T) {
	a, b := netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("2001:db8::b")
	got, err := (&Config{IPv6Prefix: 64}).members([]Element{
		{a, time.Hour, time.Minute},
		{b, 2 * time.Hour, time.Hour},
		{a, time.Hour, time.Second},
		{netip.MustParseAddr("192.0.2.1"), time.Hour, time.Hour},
	})
	must(t, err)
	want := []member{
		{allow4, netip.MustParseAddr("192.0.2.1"), time.Hour, time.Hour},
		{net6, netip.MustParseAddr("2001:db8::"), 2 * time.Hour, time.Hour},
	}
	same := cmp.Comparer(func(a, b member) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Error(diff)
	}
}

func TestMillisecondsRoundUp(t *testing.T) {
	for d, want := range map[time.Duration]uint64{
		1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, MaxTimeout: 366 * 24 * 3600 * 1000,
	} {
		if got := milliseconds(d); got != want {
			t.Errorf("%d ns: got %d ms, want %d", d, got, want)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no mode there is":        {Mode: Filter + 1, Ports: []uint16{25}},
		"filter without a port":   {Mode: Filter},
		"port 0":                  {Mode: Filter, Ports: []uint16{25, 0}},
		"prefix length":           {IPv6Prefix: 48},
		"negative prefix length":  {IPv6Prefix: -1},
		"no prefix":               {Static: []netip.Prefix{{}}},
		"half of the mapped ones": {Static: []netip.Prefix{netip.MustParsePrefix("::ffff:0:0/95")}},
	} {
		if g, err := Open(cfg); err == nil {
			t.Errorf("%s: got no error", name)
			_ = g.Close()
		}
	}
}

func TestIntervals(t *testing.T) {
	tests := []struct {
		name     string
		prefixes []string
		want     []string // addresses; an end has a bar before it
	}{
		{"none", nil, nil},
		{"one", []string{"10.0.0.0/8"}, []string{"10.0.0.0", "|11.0.0.0"}},
		{"host bits", []string{"10.1.2.3/8"}, []string{"10.0.0.0", "|11.0.0.0"}},
		{"twice", []string{"10.0.0.0/8", "10.0.0.0/8"}, []string{"10.0.0.0", "|11.0.0.0"}},
		{"inside", []string{"10.1.0.0/16", "10.0.0.0/8", "10.255.255.255/32"}, []string{"10.0.0.0", "|11.0.0.0"}},
		{"adjacent", []string{"10.128.0.0/9", "10.0.0.0/9"}, []string{"10.0.0.0", "|11.0.0.0"}},
		{"adjacent, then apart", []string{"10.0.0.0/9", "10.128.0.0/9", "12.0.0.0/8"}, []string{"10.0.0.0", "|11.0.0.0", "12.0.0.0", "|13.0.0.0"}},
		{"to the last address", []string{"255.0.0.0/8", "255.1.0.0/16", "255.255.255.255/32"}, []string{"255.0.0.0"}},
		{"adjacent to the last address", []string{"254.0.0.0/8", "255.0.0.0/8"}, []string{"254.0.0.0"}},
		{"all", []string{"0.0.0.0/0", "127.0.0.0/8"}, []string{"0.0.0.0"}},
		{"IPv6", []string{"2001:db8::/32", "::1/128"}, []string{"::1", "|::2", "2001:db8::", "|2001:db9::"}},
		{"IPv6 to the last address", []string{"ff00::/8"}, []string{"ff00::"}},
	}
	for _, tt := range tests {
		var got []string
		for _, e := range intervals(bpftest.Prefixes(tt.prefixes...)) {
			addr, _ := netip.AddrFromSlice(e.key)
			s := addr.String()
			if e.flags&unix.NFT_SET_ELEM_INTERVAL_END != 0 {
				s = "|" + s
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

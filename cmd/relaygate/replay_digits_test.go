package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"
)

// TestAppendAddr: every address reads as netip writes it.
func TestAppendAddr(t *testing.T) {
	check := func(a netip.Addr) {
		t.Helper()
		want, err := a.MarshalText()
		must(t, err)
		if got := string(appendAddr(nil, a)); got != string(want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check(netip.Addr{})
	for _, text := range []string{
		"0.0.0.0", "255.255.255.255", "1.22.133.4", "::", "::1", "1::", "::ffff:192.0.2.1", "::fffe:192.0.2.1", "::192.0.2.1",
		"fe80::1%eth0", "::1%x", "2001:db8:0:1:0:0:0:1", "2001:db8:0:0:1:0:0:1",
	} {
		check(netip.MustParseAddr(text))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], rng.Uint32()>>rng.IntN(32))
		check(netip.AddrFrom4(a))
	}
}

func TestAppendPort(t *testing.T) {
	for port := range 1 << 16 {
		if got := string(appendPort(nil, uint16(port))); got != strconv.Itoa(port) {
			t.Fatalf("%d is printed as %s", port, got)
		}
	}
}

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
		if err != nil {
			t.Fatal(err)
		}
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
	for zero := range 1 << 8 { // which fields of an IPv6 address are 0
		for range 20 {
			var a [16]byte
			for i := range 8 {
				if zero>>i&1 == 0 {
					binary.BigEndian.PutUint16(a[2*i:], uint16(rng.Uint32())>>rng.IntN(16))
				}
			}
			check(netip.AddrFrom16(a))
			check(netip.AddrFrom4([4]byte(a[4:])))
		}
	}
}

func FuzzAppendAddr(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1})
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, octets []byte) {
		if a, ok := netip.AddrFromSlice(octets); ok && string(appendAddr(nil, a)) != a.String() {
			t.Errorf("%q, want %q", appendAddr(nil, a), a)
		}
	})
}

func TestAppendPort(t *testing.T) {
	for port := range 1 << 16 {
		if got := string(appendPort(nil, uint16(port))); got != strconv.Itoa(port) {
			t.Fatalf("%d is printed as %s", port, got)
		}
	}
}

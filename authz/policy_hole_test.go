package authz

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// What is left of an always rule is exactly what no hole touches.
func TestPolicyAlwaysAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var denied, never []netip.Prefix
		for range rng.IntN(6) {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(64))})
			hole := netip.PrefixFrom(a, 26+rng.IntN(7)).Masked()
			if rng.IntN(2) == 0 {
				denied = append(denied, hole)
			} else {
				never = append(never, hole)
			}
		}
		p, err := NewPolicy(Host{}, Rules{Always: prefixes("192.0.2.0/26"), Never: never})
		if err != nil {
			t.Fatal(err)
		}
		var more []Denial
		for _, d := range denied {
			more = append(more, Denial{Prefix: d, Words: "by root"})
		}
		if p, err = p.Denying(more); err != nil {
			t.Fatal(err)
		}
		for i := range 80 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			in := func(list []netip.Prefix) bool {
				return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
			}
			want := i < 64 && !in(denied) && !in(never)
			if got := in(p.Always()); got != want {
				t.Fatalf("denied %v, never %v: %v is in %v: %v", denied, never, a, p.Always(), got)
			}
			if d := p.Check(a); (d.Rule == RuleAlways) != want || (d.Rule == RuleDeny) != in(denied) {
				t.Fatalf("denied %v, never %v: Check(%v) = %+v", denied, never, a, d)
			}
		}
	}
}

func TestPolicyDenying(t *testing.T) {
	p := testPolicy(t)
	more, err := p.Denying([]Denial{{Prefix: netip.MustParsePrefix("198.18.0.7/24"), Words: "by root (uid 0): spam"}})
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]string{
		"198.18.0.9":   "is denied (198.18.0.0/24) by root (uid 0): spam",
		"203.0.113.66": "is denied",
	} {
		if d := more.Check(netip.MustParseAddr(a)); d.Rule != RuleDeny || d.Reason != want {
			t.Errorf("Check(%s) = %+v, want %q", a, d, want)
		}
	}
	if d := p.Check(netip.MustParseAddr("198.18.0.9")); !d.Allow {
		t.Errorf("the policy itself changed: %+v", d)
	}
	if got, err := p.Denying([]Denial{{}}); err == nil || got != nil {
		t.Errorf("Denying(nothing) = %v, %v", got, err)
	}
	if got, err := (*Policy)(nil).Denying(nil); err != nil || got.Check(netip.MustParseAddr("198.18.0.9")).Allow {
		t.Errorf("no policy allows something: %v", err)
	}
}

// Thousands of denials inside a wide always rule do not stall anything.
func TestPolicyManyHoles(t *testing.T) {
	p, err := NewPolicy(Host{}, Rules{Always: prefixes("2001:db8::/32")})
	if err != nil {
		t.Fatal(err)
	}
	var holes []Denial
	for i := range 2000 {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[5], a[9], a[14], a[15] = byte(i), byte(i*7), byte(i>>8), byte(i)
		holes = append(holes, Denial{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), 128)})
	}
	if p, err = p.Denying(holes); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Always()); n < 2000 || n > 2000*96 {
		t.Errorf("%d parts", n)
	}
}

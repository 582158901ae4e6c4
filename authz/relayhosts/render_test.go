package relayhosts

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"relaygate/authz"
	"relaygate/authz/grant"
)

func entry(prefix string, source grant.Source, users ...string) Entry {
	g := grant.Grant{Prefix: netip.MustParsePrefix(prefix), Source: source}
	for _, u := range users {
		g.Users = append(g.Users, grant.User{Name: u})
	}
	return EntryOf(&g)
}

func sample() []Entry {
	return []Entry{
		entry("2001:db8:64::/64", grant.Login, "dave@example.org"),
		entry("2001:db8::1/128", grant.Login, "alice@example.org", "bob"),
		entry("203.0.113.7/32", grant.Login, "bob", "alice@example.org", "bob"),
		entry("192.0.2.0/24", grant.Always),
		entry("203.0.113.8/32", grant.Import),
		entry("203.0.113.9/32", grant.Manual),
		entry("203.0.113.10/32", grant.Login, ""),
		entry("203.0.113.66/32", grant.Login, "eve\n198.51.100.66: eve", "eve, root", "eve:example.org", "-alwaysrelay-",
			"\xff\xfe", "x\u202ey", `a"b<c>'&\`, "=cmd", "müller", "e+v/e%x", ""),
		{}, // no prefix
	}
}

func TestGolden(t *testing.T) {
	for name, got := range map[string][]byte{
		"relayhosts.iplsearch": renderHosts(IPLSearch, sample()),
		"relayhosts.plain":     renderHosts(Plain, sample()),
		"relayhosts.postfix":   renderHosts(Postfix, sample()),
		"relayhostsusers":      renderUsers(sample()),
	} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		must(t, err)
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestRenderNothing(t *testing.T) {
	for _, got := range [][]byte{renderHosts(IPLSearch, nil), renderHosts(Plain, nil), renderUsers(nil)} {
		if got == nil || len(got) != 0 {
			t.Errorf("nobody's file is %q, want it to be empty", got)
		}
	}
}

func TestRenderLeavesItsArgumentAlone(t *testing.T) {
	list := sample()
	renderHosts(Plain, list)
	renderUsers(list)
	if d := cmp.Diff(sample(), list, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("Render changed what it was given:\n%s", d)
	}
}

func TestSanitise(t *testing.T) {
	for in, want := range map[string]string{
		"alice@example.org":      "alice@example.org",
		"alice+tag@example.org":  "alice+tag@example.org",
		"alice:example.org":      "alice@example.org",
		"a,b":                    "a_b",
		"a b":                    "a_b",
		"a\r\nb\x00\t":           "a__b__",
		Static:                   "_alwaysrelay-",
		"#comment":               "_comment",
		":":                      "_",
		"a\u2028b\u202e":         "a_b_",
		"\xc3\x28":               "_(",
		strings.Repeat("ü", 300): strings.Repeat("ü", authz.UserLimit/2),
		"":                       "",
	} {
		if got := sanitise(in); got != want {
			t.Errorf("sanitise(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDialectNames(t *testing.T) {
	for d, want := range map[Dialect]string{IPLSearch: "iplsearch", Plain: "plain", Postfix: "postfix"} {
		if got := d.String(); got != want {
			t.Errorf("dialect %d is called %q, want %q", d, got, want)
		}
	}
}

// FuzzRender proves that no name forges a line: reading the users file back
// gives exactly the prefixes that went in.
func FuzzRender(f *testing.F) {
	for _, s := range []string{"alice", "a\nb", "a\r192.0.2.1: x", "a,b", `"`, "-alwaysrelay-", "\x85", "\u2028", "::1: root", "\v\f"} {
		f.Add(s, "bob")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		list := []Entry{entry("203.0.113.7/32", grant.Login, a, b), entry("2001:db8::1/128", grant.Login, b, a)}
		text := string(renderUsers(list))
		if !utf8.ValidString(text) {
			t.Errorf("%q is not UTF-8", text)
		}
		lines := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("\n\r\v\f\u0085\u2028\u2029", r) })
		if len(lines) != strings.Count(text, "\n") || len(lines) > 2 {
			t.Errorf("%q has lines of its own", text)
		}
		for i, line := range lines {
			host, users, _ := strings.Cut(line, ": ")
			if want := []string{"203.0.113.7", `"2001:db8::1"`}[i]; host != want {
				t.Errorf("line %d of %q is for %q, want %q", i, text, host, want)
			}
			names := strings.Split(users, ", ")
			if len(names) > 2 || strings.Contains(users, Static) && strings.Contains(", "+users, ", "+Static) {
				t.Errorf("line %q has names of its own", line)
			}
			if len(strings.Fields(line)) != 1+len(names) {
				t.Errorf("line %q has spaces of its own", line)
			}
		}
	})
}

// TestSorted compares the order with that of the addresses and lengths themselves.
func TestSorted(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var grants []Entry
	for i := range 5000 {
		bits, addr := 32, netip.AddrFrom4([4]byte{byte(128 + rng.IntN(128)), byte(rng.IntN(2)), 0, byte(rng.IntN(8))})
		if i%3 == 0 {
			bits, addr = 128, netip.AddrFrom16([16]byte{0: byte(rng.IntN(4)), 15: byte(rng.IntN(4))})
		}
		grants = append(grants, Entry{Prefix: netip.PrefixFrom(addr, rng.IntN(bits+1)), Users: []string{strconv.Itoa(i)}})
	}
	grants = append(grants, Entry{})
	want := slices.Clone(grants[:len(grants)-1])
	slices.SortStableFunc(want, func(a, b Entry) int {
		if by := a.Prefix.Addr().Compare(b.Prefix.Addr()); by != 0 {
			return by
		}
		return a.Prefix.Bits() - b.Prefix.Bits()
	})
	want = slices.CompactFunc(want, func(a, b Entry) bool { return a.Prefix == b.Prefix })
	got := sorted(grants)
	if len(got) != len(want) {
		t.Fatalf("%d prefixes, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Prefix != want[i].Prefix || got[i].Users[0] != want[i].Users[0] {
			t.Fatalf("%d: %v, want %v", i, got[i], want[i])
		}
	}
}

func BenchmarkRenderHosts(b *testing.B) {
	grants := make([]Entry, 100_000)
	for i := range grants {
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i)*2654435761)))
		grants[i].Prefix = netip.PrefixFrom(a, 32)
	}
	for b.Loop() {
		renderHosts(IPLSearch, grants)
	}
}

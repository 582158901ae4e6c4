package state

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// fill sets every field of a value, whatever it is, to something.
func fill(random *rand.Rand, v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Unix(0, random.Int64N(1<<62)-1<<58)
		return
	case *netip.Prefix:
		*x = netip.PrefixFrom(randomAddr(random), random.IntN(33))
		return
	case *netip.AddrPort:
		*x = netip.AddrPortFrom(randomAddr(random), uint16(random.Uint32()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(random, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+random.IntN(30), 30))
		for i := range v.Len() {
			fill(random, v.Index(i))
		}
	case reflect.String:
		text := make([]byte, 1+random.IntN(400))
		for i := range text {
			text[i] = byte(random.Uint32()) // UTF-8 or not
		}
		v.SetString(string(text))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + random.Int64()>>random.IntN(60))
	default:
		v.SetUint(1 + random.Uint64()>>(65-v.Type().Bits()+random.IntN(v.Type().Bits()-1)))
	}
}

func randomAddr(random *rand.Rand) netip.Addr {
	if random.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{byte(random.Uint32()), 2, 3, byte(random.Uint32())})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, byte(random.Uint32()), 15: byte(random.Uint32())})
}

// Every field comes back as it was: one that is added to a type and forgotten here
// fails.
func TestShapesComeBackAsTheyWere(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 1))
	same := cmp.Options{
		cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}), cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.IsZero() == b.IsZero() }),
	}
	for round := range 300 {
		var s grant.Saved
		var k authz.Kept
		if round > 0 { // the first are empty
			fill(random, reflect.ValueOf(&s).Elem())
			fill(random, reflect.ValueOf(&k).Elem())
		}
		gotGrant, err := ParseGrant(AppendGrant(nil, &s))
		if diff := cmp.Diff(s, gotGrant, same); diff != "" || err != nil {
			t.Fatalf("grant: %v\n%s", err, diff)
		}
		gotKept, err := ParseKept(AppendKept(nil, &k))
		if diff := cmp.Diff(k, gotKept, same); diff != "" || err != nil {
			t.Fatalf("journal: %v\n%s", err, diff)
		}
	}
}

func TestCutShapesAreErrors(t *testing.T) {
	whole := AppendGrant(nil, &grant.Saved{Grant: grant.Grant{Prefix: netip.MustParsePrefix("192.0.2.7/32")}})
	kept := AppendKept(nil, &authz.Kept{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Notes: make([]byte, 20)})
	for n := range whole {
		if _, err := ParseGrant(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are a grant", n, len(whole))
		}
	}
	for n := range kept {
		if _, err := ParseKept(kept[:n]); err == nil {
			t.Errorf("%d of %d bytes are a record of the journal", n, len(kept))
		}
	}
	if _, err := ParseGrant(kept); err == nil {
		t.Error("a record of the journal is a grant")
	}
	if _, err := ParseKept(whole); err == nil {
		t.Error("a grant is a record of the journal")
	}
}

func BenchmarkAppendGrant(b *testing.B) {
	now := time.Now()
	s := grant.Saved{Grant: grant.Grant{
		Prefix: netip.MustParsePrefix("192.0.2.7/32"), Since: now, Expires: now.Add(time.Hour), Source: grant.Login, Logins: 1,
		Users:    []grant.User{{Name: "alice", Seen: now, Protocol: authz.POP3, Mechanism: "USER"}},
		Conn:     authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:4711"), Server: netip.MustParseAddrPort("198.51.100.25:110"), Cookie: 1 << 20, Netns: 4026531840},
		Protocol: authz.POP3, Mechanism: "USER", Answer: "+OK logged in",
	}, Deadline: grant.Boot{ID: "93e4b4a8-1b8c-4b7a-9d0a-0c6b1a2f3d4e", At: time.Hour}}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf = AppendGrant(buf[:0], &s)
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}

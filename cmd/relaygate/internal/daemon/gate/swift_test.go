package gate

import (
	"net/netip"
	"testing"
	"time"

	"relaygate/authz/grant"
	"relaygate/nft"
)

// addTable notes what is added.
type addTable struct {
	fakeTable
	added, renewed []nft.Element
}

func (f *addTable) Add(list ...nft.Element) error {
	f.added = append(f.added, list...)
	return f.fakeTable.Add()
}

// Renew notes it likewise.
func (f *addTable) Renew(list ...nft.Element) error {
	f.renewed = append(f.renewed, list...)
	return nil
}

// What the kernel holds is renewed, all else added, however many are written together.
func TestHeldElementsAreRenewed(t *testing.T) {
	f := &addTable{}
	g := newFakeGate(&f.fakeTable)
	g.nft, g.lifetime = f, time.Minute
	table, now := grant.New(grant.Config{}), time.Now()
	change := func(kind grant.Kind, addr string) {
		g.Write(table, &grant.Change{Kind: kind, Arm: true, Grant: grant.Grant{
			Prefix: netip.MustParsePrefix(addr), Source: grant.Login, Expires: now.Add(time.Minute),
		}}, now)
	}
	for i, tt := range []struct {
		kinds          []grant.Kind
		added, renewed int
	}{
		{[]grant.Kind{grant.Granted}, 1, 0},
		{[]grant.Kind{grant.Renewed}, 0, 1},
		{[]grant.Kind{grant.Rearmed}, 0, 1},
		{[]grant.Kind{grant.Granted, grant.Granted}, 2, 0},
		{[]grant.Kind{grant.Granted, grant.Rearmed}, 0, 2}, // one transaction: it is asked for both
	} {
		f.added, f.renewed = nil, nil
		for n, kind := range tt.kinds {
			change(kind, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), byte(n)}), 32).String())
		}
		g.drain(t.Context())
		if len(f.added) != tt.added || len(f.renewed) != tt.renewed {
			t.Errorf("%v: %d added, %d renewed, want %d and %d", tt.kinds, len(f.added), len(f.renewed), tt.added, tt.renewed)
		}
	}
}

// Elements that waited for the gate end in time all the same.
func TestQueuedElementsEndInTime(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.7/32")
	for _, tt := range []struct {
		left, want time.Duration // 0: none is added
	}{{time.Minute, 50 * time.Second}, {5 * time.Second, 0}} {
		f := &addTable{}
		g := newFakeGate(&f.fakeTable)
		g.nft, g.lifetime = f, time.Minute
		made := time.Now().Add(-10 * time.Second)
		g.add(grant.Grant{Prefix: prefix, Source: grant.Login, Expires: made.Add(tt.left)}, made, false)
		g.Admit(prefix, made.Add(tt.left), made, made)
		g.Flush(false)
		g.drain(t.Context())
		for _, e := range f.added {
			if off := e.Remaining - tt.want; off > 0 || off < -5*time.Second {
				t.Errorf("of %v, 10 s ago, %v are added", tt.left, e.Remaining)
			}
		}
		if len(f.added) > 0 != (tt.want > 0) || g.Queued() != 0 {
			t.Errorf("of %v, 10 s ago, %d elements are added, %d wait", tt.left, len(f.added), g.Queued())
		}
	}
}

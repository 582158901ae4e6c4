//go:build linux

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
	added []nft.Element
}

func (f *addTable) Add(list ...nft.Element) error {
	f.added = append(f.added, list...)
	return f.fakeTable.Add()
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
		g.add(grant.Grant{Prefix: prefix, Source: grant.Login, Expires: made.Add(tt.left)}, made)
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

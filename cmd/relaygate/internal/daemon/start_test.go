//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

// What a start leaves closed stays closed: no row of it is in the file, which the next
// start would open again.
func TestWhatAStartLeavesClosedIsDeleted(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name  string
		state grant.State
		rows  int
		left  time.Duration // of each row
	}{
		// The crash came when the pause was in the file and not all that it closed.
		{"paused", grant.State{Paused: &grant.Pause{By: "root", Since: now}}, 10, time.Hour},
		{"denied", grant.State{Denials: []grant.Denial{{Prefix: netip.MustParsePrefix("11.0.0.0/8")}}}, 10, time.Hour},
		{"more than may wait for the disk", grant.State{}, 140_000, -time.Second},
	} {
		k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
		for i := range tt.rows {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			g := grant.Grant{Prefix: p, Since: now.Add(-time.Hour), Expires: now.Add(tt.left), Source: grant.Manual}
			k.write(row{bucket: grantsBucket, key: p.String(), value: grant.Save(now, boot(), g)})
			if i%4096 == 0 {
				if err := k.store.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := k.store.Flush(); err != nil {
			t.Fatal(err)
		}
		d := &daemon{
			opts: Options{Config: &config.Config{}}, keeper: k.keeper,
			owner: &owner{engine: k.engine, lifetime: testLifetime, hub: control.NewHub(), sessions: sessions{open: make(map[authz.Conn]*held)}},
		}
		is := survivors{finder([]sockdiag.Session{}), func(netip.Addr) bool { return false }, now}
		if _, _, err := d.restore(now, tt.state, &is, nil); err != nil {
			t.Fatal(err)
		}
		if n := k.engine.Grants().Len(); n != 0 {
			t.Errorf("%s: %d grants stand", tt.name, n)
		}
		if err := errors.Join(k.collect(t.Context()), k.store.Flush()); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := k.grants(func(*grant.Saved) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		if lost := k.store.Stats().Lost; n != 0 || lost != 0 {
			t.Errorf("%s: the file holds %d grants, want none; %d changes found no room", tt.name, n, lost)
		}
		if err := k.close(k.engine, nil); err != nil {
			t.Error(fmt.Errorf("%s: %w", tt.name, err))
		}
	}
}

// What was decided when the gate's task had ended already is written before the end:
// an element that stays then stays for all its time.
func TestLastDecisionsAreWritten(t *testing.T) {
	for _, overflow := range []bool{false, true} {
		d := newPipeline(t)
		d.play(t, &player{count: 3})
		now := time.Now()
		changes := d.owner.engine.Record(d.owner.engine.Grants().Deny(now, netip.MustParsePrefix("11.0.0.0/31"), 0, "root", ""))
		for i := range changes {
			d.owner.change(now, changes[i])
		}
		if overflow {
			for len(d.gate.ops) > 0 {
				<-d.gate.ops
			}
			d.gate.refresh()
		}
		if err := d.leave(); err != nil {
			t.Error(err)
		}
		if held, err := d.gate.nft.Read(); err != nil || len(held) != 1 {
			t.Errorf("the kernel holds %v, %v, want the one that was not denied", held, err)
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}
}

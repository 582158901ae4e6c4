package daemon

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/engine"
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
		path := filepath.Join(t.TempDir(), "state.db")
		saveGrants(t, path, func(yield func(grant.Saved) bool) {
			for i := range tt.rows {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
				g := grant.Grant{Prefix: p, Since: now.Add(-time.Hour), Expires: now.Add(tt.left), Source: grant.Manual}
				if !yield(grant.Save(now, clock.Boot(), g)) {
					return
				}
			}
		})
		e := engine.New(engine.Config{})
		if _, err := e.SetHost(now, authz.Host{}); err != nil {
			t.Fatal(err)
		}
		d := &daemon{
			opts: Options{Config: &config.Config{Lifetime: testLifetime}}, keeper: openKeeper(t, path),
			cutter: newCutter(&cutSettings{}, nil),
			owner:  &owner{engine: e, hub: control.NewHub(), sessions: sessions{open: make(map[authz.Conn]*held)}},
		}
		is := survivors{finder([]sockdiag.Session{}), func(netip.Addr) bool { return false }, now}
		if _, _, err := d.restore(now, tt.state, &is, nil); err != nil {
			t.Fatal(err)
		}
		if n := e.Grants().Len(); n != 0 {
			t.Errorf("%s: %d grants stand", tt.name, n)
		}
		var s control.Status
		s.Drops = make(map[string]uint64)
		d.keeper.Status(&s)
		err := d.keeper.Close(e, nil)
		k, n := openKeeper(t, path), 0
		must(t, errors.Join(err, k.Grants(func(*grant.Saved) bool { n++; return true }), k.Close(nil, nil)))
		if lost := s.Drops["state: changes without room"]; n != 0 || lost != 0 {
			t.Errorf("%s: the file holds %d grants, want none; %d changes found no room", tt.name, n, lost)
		}
	}
}

// What was decided when the gate's task had ended already is written before the end:
// an element that stays then stays for all its time. More may have been decided than
// the gate's queue has room for.
func TestLastDecisionsAreWritten(t *testing.T) {
	for _, tt := range []struct {
		logins int
		denied string // the first ones
		left   int
	}{
		{3, "11.0.0.0/31", 1},
		// So many that the kernel's table need not shrink: a list would miss some then.
		{40_000, "11.0.0.0/18", 40_000 - 1<<14},
	} {
		d := newPipeline(t)
		d.play(t, &player{count: tt.logins})
		now := time.Now()
		changes := d.owner.engine.Record(d.owner.grants().Deny(now, netip.MustParsePrefix(tt.denied), 0, "root", ""))
		for i := range changes {
			d.owner.change(now, changes[i])
		}
		must(t, d.leave())
		if held, err := d.gate.Read(); err != nil || len(held) != tt.left {
			t.Errorf("the kernel holds %d elements, %v, want the %d that were not denied", len(held), err, tt.left)
		}
		must(t, d.close())
	}
}

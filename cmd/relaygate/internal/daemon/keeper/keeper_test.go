package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

var must = bpftest.Must

// kept is an engine with a keeper, both in the test's goroutine.
type kept struct {
	*Keeper
	engine *engine.Engine
	now    time.Time
}

func newKept(t *testing.T, path string) *kept {
	t.Helper()
	k, err := Open(path, time.Hour, time.Now(), slog.New(slog.DiscardHandler))
	must(t, err)
	e := engine.New(engine.Config{})
	if _, err := e.SetHost(time.Now(), authz.Host{}); err != nil {
		t.Fatal(err)
	}
	out := &kept{Keeper: k, engine: e, now: time.Now()}
	k.Connect(Owner{Do: func(_ context.Context, do func(*engine.Engine, time.Time)) error { do(e, out.now); return nil }})
	return out
}

func (k *kept) table() *grant.Table { return k.engine.Grants() }

// do keeps what changed in the table.
func (k *kept) do(t *testing.T, changes ...grant.Change) {
	t.Helper()
	k.engine.Record(changes)
	for i := range changes {
		k.Changed(&changes[i])
	}
	must(t, k.collect(t.Context()))
	must(t, k.store.Flush())
}

func (k *kept) manual(t *testing.T, prefix string) {
	t.Helper()
	c, _ := k.table().Manual(k.now, netip.MustParsePrefix(prefix), time.Hour, "root", "a test")
	k.do(t, c)
}

func (k *kept) end(t *testing.T) {
	t.Helper()
	must(t, k.Close(k.engine, nil))
}

// recover writes what is marked when the disk takes it again: no grant is left.
func (k *kept) recover(t *testing.T, path string) {
	t.Helper()
	var err error
	if k.store, err = state.Open(path, k.now); err != nil {
		t.Fatal(err)
	}
	k.do(t)
	k.holds(t)
	k.end(t)
}

// holds compares the prefixes of the grants in the file.
func (k *kept) holds(t *testing.T, want ...string) Restored {
	t.Helper()
	r, err := k.Load(k.now)
	must(t, err)
	var got []string
	err = k.Grants(func(g *grant.Saved) bool { got = append(got, g.Prefix.String()); return true })
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	return r
}

func TestFileFollowsTheTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	k := newKept(t, path)
	k.manual(t, "192.0.2.7/32")
	k.manual(t, "198.51.100.0/28")
	k.holds(t, "192.0.2.7/32", "198.51.100.0/28")
	k.do(t, k.table().Revoke(k.now, netip.MustParsePrefix("192.0.2.7/32"), "root", "no")...)
	k.holds(t, "198.51.100.0/28")
	k.do(t, k.table().Deny(k.now, netip.MustParsePrefix("203.0.113.0/24"), time.Hour, "root", "spam")...)
	k.do(t, k.table().Pause(k.now, "root", "moving")...)
	r := k.holds(t)
	if len(r.State.Denials) != 1 || r.State.Denials[0].Note != "spam" || r.State.Denials[0].Deadline.ID != clock.Boot().ID || r.State.Paused == nil || r.State.Paused.Note != "moving" {
		t.Errorf("rules %+v", r.State)
	}
	if len(r.Journal) < 3 {
		t.Errorf("%d prefixes in the journal, want those of all orders", len(r.Journal))
	}
	k.do(t, append(k.table().Resume(k.now, "root", ""), k.table().Undeny(k.now, netip.MustParsePrefix("203.0.113.0/24"), "root", "")...)...)
	if r := k.holds(t); len(r.State.Denials) != 0 || r.State.Paused != nil {
		t.Errorf("rules %+v, want none", r.State)
	}
	k.end(t)
}

// A denial or a pause whose record cannot be understood holds all the same.
func TestRulesThatCannotBeUnderstoodHold(t *testing.T) {
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	k.store.Put(denialsBucket, "192.0.2.0/24", []byte("?"))
	k.store.Put(pauseBucket, pauseKey, []byte("?"))
	must(t, k.store.Flush())
	r := k.holds(t)
	if d := r.State.Denials; len(d) != 1 || d[0].Prefix != netip.MustParsePrefix("192.0.2.0/24") || !d[0].Until.IsZero() || r.State.Paused == nil {
		t.Errorf("rules %+v", r.State)
	}
	k.end(t)
}

// Where more closed than was told, no row of a closed grant stays: it would open
// again with the next start.
func TestSweepFindsWhatWasNotTold(t *testing.T) {
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	for i := range 5 {
		k.manual(t, fmt.Sprintf("192.0.2.%d/32", i))
	}
	changes := k.table().Revoke(k.now, netip.MustParsePrefix("192.0.2.0/29"), "root", "all")
	changes[0].Rebuild = true
	k.do(t, changes[0]) // as if there were too many
	k.holds(t)
	k.end(t)
}

// Where the file could not be compared when that was due, it is later: until then a
// crash would open again what was revoked.
func TestSweepIsNotForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	k := newKept(t, path)
	for i := range 5 {
		k.manual(t, fmt.Sprintf("192.0.2.%d/32", i))
	}
	if err := k.store.Close(); err != nil { // now nothing can be written or read
		t.Fatal(err)
	}
	changes := k.engine.Record(k.table().Revoke(k.now, netip.MustParsePrefix("192.0.2.0/29"), "root", "all"))
	changes[0].Rebuild = true
	k.Changed(&changes[0])
	if err := k.collect(t.Context()); err == nil {
		t.Error("a closed file was compared")
	}
	if k.pending() == 0 {
		t.Error("nothing is said to be pending")
	}
	k.recover(t, path)
}

// Where much waits for a disk that takes nothing, in bytes if not in changes, what is
// marked stays marked: a revoked grant whose deletion found no room would come back.
func TestMarksStayWhileThereIsNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	k := newKept(t, path)
	k.manual(t, "192.0.2.7/32")
	if err := k.store.Close(); err != nil { // now nothing can be written
		t.Fatal(err)
	}
	full := func() bool { return k.store.Stats().Lost > 0 }
	for i := 0; !full(); i++ {
		k.store.Put(journalBucket, fmt.Sprint(i), make([]byte, 4096))
	}
	for i := 0; i < 4096; i++ { // what is left is less than one more deletion takes
		k.store.Delete(journalBucket, fmt.Sprint(i))
	}
	lost := k.store.Stats().Lost
	changes := k.engine.Record(k.table().Revoke(k.now, netip.MustParsePrefix("192.0.2.7/32"), "root", "no"))
	for i := range changes {
		k.Changed(&changes[i])
	}
	if err := k.collect(t.Context()); err == nil || k.store.Stats().Lost != lost {
		t.Errorf("collect says %v, and %d more changes are lost", err, k.store.Stats().Lost-lost)
	}
	k.recover(t, path)
}

// An order does not wait until the tail is merged, nor is it in the file only then.
func TestOrdersNeedNoMerge(t *testing.T) {
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	network := netip.MustParsePrefix("203.0.113.0/24")
	k.manual(t, "192.0.2.7/32")
	k.do(t, k.table().Deny(k.now, network, time.Hour, "root", "")...)
	k.do(t, k.table().Undeny(k.now, network, "root", "")...)
	if n := k.store.Stats().Merges; n != 0 {
		t.Errorf("%d merges for two orders", n)
	}
	if r := k.holds(t, "192.0.2.7/32"); len(r.State.Denials) != 0 {
		t.Errorf("%+v", r.State)
	}
	k.end(t)
}

// A record that was written by somebody else's version leaves out what it
// cannot say, and a pause stays a pause.
func TestRecordsThatCannotBeUnderstood(t *testing.T) {
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	for _, bucket := range []string{grantsBucket, denialsBucket, sessionsBucket, journalBucket, countersBucket, pauseBucket} {
		for _, bad := range []string{"", "null garbage", `{"Prefix":7}`, `[]`, `"x"`} {
			k.store.Put(bucket, "key of "+bad, []byte(bad))
		}
	}
	must(t, k.store.Flush())
	r, err := k.Load(k.now)
	must(t, err)
	err = k.Grants(func(g *grant.Saved) bool { t.Errorf("%+v", g); return true })
	if len(r.State.Denials) != 0 || r.State.Paused == nil || err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	must(t, k.Close(nil, nil))
}

// TestFileForgetsWithTheJournal: the bounds of the journal in memory are those of
// the file's, which tells nothing that is older than it should be.
func TestFileForgetsWithTheJournal(t *testing.T) {
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	old := netip.MustParsePrefix("192.0.2.8/32")
	k.engine.Evidence().Add(authz.Event{Kind: authz.EventBraked, Time: k.now.Add(-2 * time.Hour), Prefix: old})
	k.Noted(old)
	k.manual(t, "192.0.2.7/32")
	for i := range 3 * askBatch { // pushed out, as far as the engine knows
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 32)
		k.store.Put(journalBucket, p.String(), state.AppendKept(nil, &authz.Kept{Prefix: p, Until: k.now.Add(time.Hour)}))
	}
	if list, err := k.stored(journalBucket); len(list) != 3*askBatch+2 || err != nil {
		t.Fatalf("%d records of the journal, %v, want %d", len(list), err, 3*askBatch+2)
	}
	k.forget(t.Context())
	if left, err := k.stored(journalBucket); len(left) != 1 || left[0] != netip.MustParsePrefix("192.0.2.7/32") || err != nil {
		t.Errorf("the file remembers %v, %v", left, err)
	}
	must(t, k.Close(nil, nil))
}

// A file that somebody spoiled is made again at a stop, with all that holds then.
func TestSpoiledFileIsMadeAgainAtAStop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	k := newKept(t, path)
	k.PutRun(Run{Mode: "filter"})
	k.manual(t, "192.0.2.7/32")
	k.do(t, k.table().Deny(k.now, netip.MustParsePrefix("203.0.113.0/24"), 0, "root", "")...)
	must(t, os.Truncate(path, 0))
	must(t, k.Close(k.engine, map[string]uint64{"logins": 7}))
	k = newKept(t, path)
	if r := k.holds(t, "192.0.2.7/32"); r.Counters["logins"] != 7 || len(r.State.Denials) != 1 || r.Run != (Run{Mode: "filter", Stopped: true}) || len(r.Journal) != 1 {
		t.Errorf("the file holds %+v", r)
	}
	k.end(t)
}

// What renewals tell is kept at a stop, and before it where the kernel is told of them.
func TestStoryOfRenewals(t *testing.T) {
	p := netip.MustParsePrefix("192.0.2.7/32")
	for _, tt := range []struct {
		name  string
		arm   bool
		stops bool
		want  int
	}{
		{"not armed", false, false, 1},
		{"armed", true, false, 2},
		{"not armed, and a stop", false, true, 2},
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		k := newKept(t, path)
		k.manual(t, p.String())
		k.engine.Evidence().Add(authz.Event{Kind: authz.EventBraked, Time: k.now, Last: k.now, Prefix: p})
		k.Changed(&grant.Change{Kind: grant.Renewed, Arm: tt.arm, Grant: grant.Grant{Prefix: p}})
		must(t, k.collect(t.Context()))
		if tt.stops {
			k.end(t)
			k = newKept(t, path)
		}
		r, err := k.Load(k.now)
		if err != nil || len(r.Journal) != 1 {
			t.Fatalf("%s: %v, the journal is %+v", tt.name, err, r.Journal)
		}
		if events, err := r.Journal[0].Events(); err != nil || len(events) != tt.want {
			t.Errorf("%s: %v, %+v, want %d events", tt.name, err, events, tt.want)
		}
		must(t, k.Close(nil, nil))
	}
}

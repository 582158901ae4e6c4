package bpf

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// HurryUp makes the reader look for what nobody is in a hurry for more often.
func (t *Tap) HurryUp() { t.reader.lag = 10 * time.Millisecond }

// HurryUp is the same on interfaces.
func (w *Wire) HurryUp() { w.reader.lag = 10 * time.Millisecond }

// Linger makes it look for that never.
func (t *Tap) Linger() { t.reader.lag = time.Hour }

// Access is how a tap's programs see what the kernel knows of a packet.
type Access = tapAccess

// The ways to see it.
const (
	NoAccess = tapAccessNO_ACCESS
	ByCasts  = tapAccessBY_CASTS
	ByHelper = tapAccessBY_HELPER
)

// BestAccess is this kernel's.
func BestAccess(tb testing.TB) Access {
	tb.Helper()
	best, err := bestAccess()
	must(tb, err)
	return best
}

// See is an option for a kernel where a way is the best.
func See(by Access) func(*Options) { return func(o *Options) { o.access = &by } }

// Sleeps says whether the reader waits to be woken.
func (t *Tap) Sleeps() bool { return atomic.LoadUint32(&t.reader.notes.Sleeps) != 0 }

// Randoms counts the server randoms that are kept.
func (t *Tap) Randoms(tb testing.TB) int {
	tb.Helper()
	var random [32]byte
	var origin tapOrigin
	n := 0
	all := t.objs.Randoms.Iterate()
	for all.Next(&random, &origin) {
		n++
	}
	must(tb, all.Err())
	var cookie uint64
	all = t.objs.Hellos.Iterate()
	for all.Next(&cookie, &random) {
		n++
	}
	must(tb, all.Err())
	return n
}

// Way is how programs are attached.
type Way = way

func (w way) String() string {
	return [...]string{"perf events", "uprobe_multi links", "uprobe session links"}[w]
}

// The ways.
const (
	ByPerf    = byPerf
	ByMulti   = byMulti
	BySession = bySession
)

// AttachLibraryBy is AttachLibrary on a kernel where a way is the best.
func (t *Tap) AttachLibraryBy(way Way, lib Library) (*LibraryProbes, error) {
	return t.attachLibrary(lib, way)
}

// HelloBytes is what shows a ServerHello.
const HelloBytes = 43

// Hasty counts the places of connections of which bytes came early.
func (t *Tap) Hasty(tb testing.TB) (n int) {
	tb.Helper()
	var all [16384]uint64
	must(tb, t.objs.Hasty.Get(&all))
	for _, at := range all {
		if at != 0 {
			n++
		}
	}
	return n
}

// Calls counts the calls that are under way.
func (t *Tap) Calls(tb testing.TB) int {
	tb.Helper()
	var thread uint64
	var calls tapCalls
	n := 0
	all := t.objs.Calls.Iterate()
	for all.Next(&thread, &calls) {
		n++
	}
	must(tb, all.Err())
	return n
}

// FillCalls leaves no room for a call until the function that it returns is called.
func (t *Tap) FillCalls(tb testing.TB) (empty func()) {
	tb.Helper()
	n := uint64(t.objs.Calls.MaxEntries())
	for thread := range n {
		must(tb, t.objs.Calls.Put(thread, &tapCalls{}))
	}
	return func() {
		for thread := range n {
			must(tb, t.objs.Calls.Delete(thread))
		}
	}
}

// Overwrite writes what SetEncrypted does, as if it had looked before a loss.
func (t *Tap) Overwrite(tb testing.TB, cookie uint64) (lost bool) {
	tb.Helper()
	var f tapFlow
	must(tb, t.objs.Flows.Lookup(&cookie, &f))
	must(tb, t.objs.Flows.Put(&cookie, &tapFlow{State: tapFlowStateENCRYPTED, Opened: f.Opened}))
	return f.State == tapFlowStateLOST
}

// Spent is what programs have run, while the kernel keeps count of that.
type Spent struct {
	Runs uint64
	Time time.Duration
}

// Since is what was spent after another count.
func (s Spent) Since(before Spent) Spent { return Spent{s.Runs - before.Runs, s.Time - before.Time} }

// Each is the nanoseconds that one run took.
func (s Spent) Each() float64 { return float64(s.Time.Nanoseconds()) / float64(max(s.Runs, 1)) }

func spent(tb testing.TB, programs ...*ebpf.Program) (sum Spent) {
	tb.Helper()
	for _, p := range programs {
		stats, err := p.Stats()
		must(tb, err)
		sum.Runs += stats.RunCount
		sum.Time += stats.Runtime
	}
	return sum
}

// Spent is what all programs on the library have run.
func (p *LibraryProbes) Spent(tb testing.TB) Spent {
	return spent(tb, slices.Collect(maps.Values(p.objs.Programs))...)
}

// Egress is what the program for packets to clients has run, Ingress the other.
func (t *Tap) Egress(tb testing.TB) Spent  { return spent(tb, t.objs.RelaygateOut) }
func (t *Tap) Ingress(tb testing.TB) Spent { return spent(tb, t.objs.RelaygateIn) }

// Has says whether the kernel still follows a connection.
func (t *Tap) Has(cookie uint64) (bool, error) {
	var f tapFlow
	err := t.objs.Flows.Lookup(&cookie, &f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up a connection: %w", err)
	}
	return true, nil
}

// OwnMaps names the maps that are not the tap's.
func (p *LibraryProbes) OwnMaps(tb testing.TB) (names []string) {
	tb.Helper()
	var shared []ebpf.MapID
	all := reflect.ValueOf(p.tap.objs.tapMaps)
	for i := range all.NumField() {
		shared = append(shared, mapID(tb, all.Field(i).Interface().(*ebpf.Map)))
	}
	for name, m := range p.objs.Maps {
		if !slices.Contains(shared, mapID(tb, m)) {
			names = append(names, name)
		}
	}
	return names
}

func mapID(tb testing.TB, m *ebpf.Map) ebpf.MapID {
	tb.Helper()
	info, err := m.Info()
	must(tb, err)
	id, ok := info.ID()
	if !ok {
		tb.Fatal("a map has no number")
	}
	return id
}

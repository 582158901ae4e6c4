// Package gate is the task that owns the nftables socket: it writes what the owner of
// the grants decides, and builds the table again where others damage it.
//
//	Admit, Flush ──────────────────────▶ nft   a login's element, at once where it can
//	Write ─operation─▶ queue ─▶ Run ───▶ nft   all else; what finds no room is rebuilt
//	others' changes, a look now and then ─▶ repair, compare
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// Gate is the task. It shares the socket with the owner of the grants, who writes the
// elements of new ones: see Admit.
type Gate struct {
	// writing is held by whoever uses nft. queued counts ops that are not
	// written yet.
	writing sync.Mutex
	queued  atomic.Int64
	batch   []nft.Element // of the holder of writing

	nft   table
	watch atomic.Pointer[nft.Watch] // nil without nftables
	cfg   nft.Config                // in force
	log   *slog.Logger
	hub   *control.Hub
	owner Owner

	ops      chan operation
	asked    chan question
	more     chan struct{} // overflow was set
	overflow atomic.Bool   // an op found no room: only a rebuild helps
	broken   bool          // the table is not as it should be
	suspicion
	bites bites
	// static are the static members that the owner wants, stale whether the
	// table may have others.
	static atomic.Pointer[[]netip.Prefix]
	stale  bool
	beat   atomic.Int64 // when the loop last turned, Unix ns
	grants atomic.Int64 // how many there are, as the owner last saw

	// What follows is the owner's.
	lifetime   time.Duration
	generation uint64 // of the last Projection
	swift      []operation

	mu    sync.Mutex
	stats control.Gate
	late  map[netip.Prefix]struct{} // of sets of the administrator's: see shut
}

// operation adds an element, or removes an address, or says that the static members
// changed where both are zero.
type operation struct {
	element    nft.Element
	made       time.Time // when that was left of the element
	held       bool      // the kernel has one of this address, which is renewed
	remove     netip.Addr
	caused     time.Time // the login's answer, of which this opens the gate; else zero
	generation uint64
}

// question runs do in the gate's goroutine, after every op that was queued
// before it.
type question struct {
	do   func(context.Context) error
	done chan error
}

// Projection is what the kernel should hold at one moment. Ops of its
// generation or an earlier one are in it.
type Projection struct {
	at         time.Time
	members    []nft.Element
	generation uint64
}

// The gate's bounds and pace.
const (
	opsQueue   = 8192
	checkEvery = 2 * time.Second
	// loadFrom is from how many members on a table is built in chunks, so that
	// a login need not wait for all of them.
	loadFrom = 50_000
)

// Owner is who owns the grants.
type Owner struct {
	// Snapshot has the owner Project them.
	Snapshot func(context.Context) (Projection, error)
	// Bitten tells the owner whose connections a brake refused.
	Bitten func(context.Context, []nft.Bitten)
	// Intruded tells the owner whom somebody else had put among the members, and by
	// what change.
	Intruded func(ctx context.Context, members []netip.Prefix, change string)
}

// Connect tells the gate whom to ask; it comes before Run.
func (g *Gate) Connect(o Owner) { g.owner = o }

// Open connects to the kernel, and claims the gate.
func Open(cfg *config.Config, static []netip.Prefix, log *slog.Logger, hub *control.Hub) (*Gate, error) {
	want := ConfigOf(cfg, static)
	t, missing, err := openTable(want)
	if err != nil {
		return nil, fmt.Errorf("open the gate: %w", err)
	}
	g := newGate(t, log, hub)
	g.cfg, g.lifetime = want, cfg.Lifetime
	g.stats = control.Gate{Mode: want.Mode.String(), Ports: want.Ports, Words: cfg.Gate.Words()}
	g.static.Store(&want.Static)
	if missing != nil {
		g.stats.Missing = missing.Error()
		log.Warn("nothing can be shown in nftables sets: relaygate observes without", "error", missing)
	}
	err = t.Claim()
	if errors.Is(err, nft.ErrUnsupported) {
		log.Warn("nothing keeps a second relaygate from this gate", "error", err)
		err = nil
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	g.tellLacks()
	return g, nil
}

func newGate(t table, log *slog.Logger, hub *control.Hub) *Gate {
	g := &Gate{
		nft: t, log: log, hub: hub,
		ops: make(chan operation, opsQueue), asked: make(chan question), more: make(chan struct{}, 1),
	}
	g.static.Store(new([]netip.Prefix))
	return g
}

// Discard is a gate that opens and closes nothing.
func Discard() *Gate { return newGate(noTable{}, slog.New(slog.DiscardHandler), control.NewHub()) }

// tellLacks says what of the configuration the kernel cannot do.
func (g *Gate) tellLacks() {
	lacks := ""
	if err := g.nft.Lacks(); err != nil {
		lacks = err.Error()
		g.log.Warn("the gate is built without what this kernel cannot do", "error", err)
	}
	g.note(func(s *control.Gate) { s.Lacks = lacks })
}

// Status tells how the gate is; Beat when Run turned last, Queued how many operations
// wait for it, and Static the static members that the owner wants.
func (g *Gate) Status() control.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}
func (g *Gate) Beat() time.Time        { return time.Unix(0, g.beat.Load()) }
func (g *Gate) Queued() int64          { return g.queued.Load() }
func (g *Gate) Static() []netip.Prefix { return *g.static.Load() }

// Count notes how many grants there are, and Grants says it.
func (g *Gate) Count(grants int) { g.grants.Store(int64(grants)) }
func (g *Gate) Grants() int      { return int(g.grants.Load()) }

// Read lists what the kernel holds.
func (g *Gate) Read() ([]nft.Element, error) { return g.nft.Read() }

// Reload puts the gate of another configuration in force. On an error the former one
// stays.
func (g *Gate) Reload(ctx context.Context, cfg *config.Config) error {
	want := ConfigOf(cfg, nil)
	if err := g.ask(ctx, func(ctx context.Context) error { return g.change(ctx, want) }); err != nil {
		return fmt.Errorf("change the gate: %w", err)
	}
	g.note(func(s *control.Gate) { s.Words = cfg.Gate.Words() })
	return nil
}

func (g *Gate) publish(reason string) { g.hub.Tell(time.Now(), "gate", reason) }

func (g *Gate) note(f func(*control.Gate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

func (g *Gate) noteError(err error) {
	g.note(func(s *control.Gate) { s.Errors++; s.LastError = err.Error() })
}

// Close gives the socket up.
func (g *Gate) Close() error {
	var errs []error
	if w := g.watch.Load(); w != nil {
		errs = append(errs, w.Close())
	}
	return errors.Join(append(errs, g.nft.Close())...)
}

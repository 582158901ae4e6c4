//go:build linux

package daemon

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

// gate is the goroutine that owns the nftables socket. It shares it with the
// owner, who writes the elements of new grants: see gate_swift.go.
type gate struct {
	// writing is held by whoever uses nft. queued counts ops that are not
	// written yet.
	writing sync.Mutex
	queued  atomic.Int64
	batch   []nft.Element // of the holder of writing

	nft      table
	watch    atomic.Pointer[nft.Watch] // nil without nftables
	cfg      nft.Config                // in force
	log      *slog.Logger
	hub      *control.Hub
	snapshot func(context.Context) (projection, error)
	bitten   func(context.Context, []nft.Bitten) // tells the owner

	ops      chan gateOp
	asked    chan gateQuestion
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
	generation uint64 // of the last projection
	swift      []gateOp

	mu    sync.Mutex
	stats control.Gate
	late  map[netip.Prefix]struct{} // of sets of the administrator's: see shut
}

// gateOp adds an element, or removes an address, or says that the static members
// changed where both are zero.
type gateOp struct {
	element    nft.Element
	remove     netip.Addr
	caused     time.Time
	generation uint64
}

// gateQuestion runs do in the gate's goroutine, after every op that was queued
// before it.
type gateQuestion struct {
	do   func(context.Context) error
	done chan error
}

// projection is what the kernel should hold at one moment. Ops of its
// generation or an earlier one are in it.
type projection struct {
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

func openGate(cfg *config.Config, static []netip.Prefix, log *slog.Logger, hub *control.Hub) (*gate, error) {
	want, err := gateConfig(cfg, static)
	if err != nil {
		return nil, fmt.Errorf("open the gate: %w", err)
	}
	t, missing, err := openTable(want)
	if err != nil {
		return nil, fmt.Errorf("open the gate: %w", err)
	}
	g := &gate{
		nft: t, cfg: want, lifetime: cfg.Lifetime, log: log, hub: hub,
		ops: make(chan gateOp, opsQueue), asked: make(chan gateQuestion), more: make(chan struct{}, 1),
		stats: control.Gate{Mode: want.Mode.String(), Ports: want.Ports, Words: cfg.Gate.Words()},
	}
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

// tellLacks says what of the configuration the kernel cannot do.
func (g *gate) tellLacks() {
	lacks := ""
	if err := g.nft.Lacks(); err != nil {
		lacks = err.Error()
		g.log.Warn("the gate is built without what this kernel cannot do", "error", err)
	}
	g.note(func(s *control.Gate) { s.Lacks = lacks })
}

// tellWords says what the gate does.
func (g *gate) tellWords(words string) { g.note(func(s *control.Gate) { s.Words = words }) }

// ask runs do in the gate's goroutine when all that was sent before is done.
func (g *gate) ask(ctx context.Context, do func(context.Context) error) error {
	q := gateQuestion{do: do, done: make(chan error, 1)}
	return ask(ctx, g.asked, q, q.done)
}

func (g *gate) run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		g.beat.Store(time.Now().UnixNano())
		// Single changes go first.
		g.alone(func() { g.drain(ctx) })
		select {
		case op := <-g.ops:
			g.alone(func() { g.take(ctx, op) })
		case q := <-g.asked:
			g.alone(func() {
				g.drain(ctx)
				q.done <- q.do(ctx)
			})
		case <-g.more:
			g.alone(func() { g.mend(ctx) })
		case change := <-g.changes():
			g.alone(func() { g.inspect(ctx, &change) })
		case <-tick.C:
			g.alone(func() {
				g.inspect(ctx, nil)
				g.readBites(ctx)
			})
		case <-ctx.Done():
			g.alone(func() { g.drain(ctx) }) // what was decided before the end
			return nil
		}
	}
}

// changes are those of other programs; nil without nftables.
func (g *gate) changes() <-chan nft.Change {
	if w := g.watch.Load(); w != nil {
		return w.Changes()
	}
	return nil
}

// drain does what is queued.
func (g *gate) drain(ctx context.Context) {
	for len(g.ops) > 0 {
		g.take(ctx, <-g.ops)
	}
}

// maxGather bounds the ops of one transaction.
const maxGather = 64

// take does an op. If it adds an element, those queued behind it that do so too
// are written with it.
func (g *gate) take(ctx context.Context, op gateOp) {
	crowd := []gateOp{op}
	for op.adds() && len(crowd) < maxGather && len(g.ops) > 0 {
		op = <-g.ops
		crowd = append(crowd, op)
	}
	adds := crowd
	if last := len(crowd) - 1; !op.adds() {
		adds = crowd[:last]
	}
	if len(adds) > 1 && g.addAll(adds) == nil {
		g.queued.Add(-int64(len(adds)))
		crowd = crowd[len(adds):]
	}
	for _, op := range crowd {
		g.apply(ctx, op)
		g.queued.Add(-1)
	}
}

func (op *gateOp) adds() bool    { return op.element.Addr.IsValid() }
func (op *gateOp) removes() bool { return op.remove.IsValid() }

func (g *gate) apply(ctx context.Context, op gateOp) {
	if op.adds() || op.removes() {
		g.failed(ctx, g.put(op))
		return
	}
	g.stale = true
	g.mend(ctx)
}

// put writes one op.
func (g *gate) put(op gateOp) error {
	if op.adds() {
		return g.addAll([]gateOp{op})
	}
	err := g.nft.Remove(op.remove)
	if err != nil && !errors.Is(err, nft.ErrElement) { // else no set could hold it
		g.shutLater(netip.PrefixFrom(op.remove, op.remove.BitLen()))
	}
	return err
}

// failed does what an error of put needs.
func (g *gate) failed(ctx context.Context, err error) {
	switch {
	case err == nil:
		return
	case errors.Is(err, nft.ErrTableGone):
		g.noteError(err)
		g.repair(ctx, "it was gone when it was to be written", false)
	default:
		g.noteError(err)
		g.log.Error("the gate could not be written", "error", err)
		g.broken = g.broken || !errors.Is(err, nft.ErrElement)
		g.tellBehind()
	}
}

func (g *gate) publish(event, reason string) {
	g.hub.Tell(time.Now(), event, reason)
}

func (g *gate) note(f func(*control.Gate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

func (g *gate) noteError(err error) {
	g.note(func(s *control.Gate) { s.Errors++; s.LastError = err.Error() })
}

func (g *gate) status() control.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}

func (g *gate) close() error {
	var errs []error
	if w := g.watch.Load(); w != nil {
		errs = append(errs, w.Close())
	}
	return errors.Join(append(errs, g.nft.Close())...)
}

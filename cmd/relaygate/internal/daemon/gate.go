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

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/nft"
)

// gate is the goroutine that owns the nftables socket.
type gate struct {
	nft      *nft.Gate
	watch    *nft.Watch
	mode     nft.Mode
	lifetime time.Duration
	log      *slog.Logger
	hub      *control.Hub
	snapshot func(context.Context) ([]nft.Element, error)
	count    int // elements of the first build

	ops      chan gateOp
	overflow atomic.Bool // an op found no room: only a rebuild helps
	broken   bool        // the table is not as it should be

	mu    sync.Mutex
	stats control.Gate
}

// gateOp adds an element, or removes an address where element is zero.
type gateOp struct {
	element nft.Element
	remove  netip.Addr
	caused  time.Time
}

// The gate's bounds and pace.
const (
	opsQueue   = 8192
	checkEvery = 2 * time.Second
)

func openGate(cfg *config.Config, eng *engine.Engine, log *slog.Logger, hub *control.Hub) (*gate, error) {
	mode := nft.Observe
	switch cfg.Gate.Mode {
	case config.ModeObserve:
	case config.ModeFilter:
		mode = nft.Filter
	default:
		return nil, fmt.Errorf("gate mode %s is not available yet", cfg.Gate.Mode)
	}
	var static []netip.Prefix
	for _, g := range eng.Grants() {
		if g.Source == grant.Always {
			static = append(static, g.Prefix)
		}
	}
	conn, err := nft.Open(nft.Config{Mode: mode, Ports: cfg.Gate.Ports, Static: static, IPv6Prefix: cfg.IPv6Prefix})
	if err != nil {
		return nil, fmt.Errorf("open the gate: %w", err)
	}
	return &gate{
		nft: conn, mode: mode, lifetime: cfg.Lifetime, log: log, hub: hub, ops: make(chan gateOp, opsQueue),
		stats: control.Gate{Mode: mode.String(), Ports: cfg.Gate.Ports},
	}, nil
}

// elements is what the gate should hold.
func elements(eng *engine.Engine, lifetime time.Duration, now time.Time) []nft.Element {
	var list []nft.Element
	for _, g := range eng.Grants() {
		if e, ok := element(&g, lifetime, now); ok {
			list = append(list, e)
		}
	}
	return list
}

// element is false for what needs none: always rules are static members, and
// what ran out may not stand.
func element(g *grant.Grant, lifetime time.Duration, now time.Time) (nft.Element, bool) {
	left := g.Expires.Sub(now)
	if g.Source == grant.Always || left <= 0 {
		return nft.Element{}, false
	}
	return nft.Element{Addr: g.Prefix.Addr(), Timeout: max(lifetime, left), Remaining: left}, true
}

// add and remove hand work over and never wait: they are called by the owner.
func (g *gate) add(gr grant.Grant, now, caused time.Time) {
	if e, ok := element(&gr, g.lifetime, now); ok {
		g.send(gateOp{element: e, caused: caused})
	}
}

func (g *gate) remove(gr grant.Grant) { g.send(gateOp{remove: gr.Prefix.Addr()}) }

func (g *gate) send(op gateOp) {
	select {
	case g.ops <- op:
	default:
		g.overflow.Store(true)
	}
}

// build makes the table, at the start.
func (g *gate) build(want []nft.Element) (err error) {
	if g.watch, err = g.nft.Watch(); err != nil {
		return fmt.Errorf("watch the gate: %w", err)
	}
	if err := g.nft.Rebuild(want); err != nil && !errors.Is(err, nft.ErrElement) {
		return fmt.Errorf("build the gate: %w", err)
	}
	g.count = len(want)
	g.note(func(s *control.Gate) { s.Up = true })
	g.publish("gate", "built")
	return nil
}

func (g *gate) run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		// Single adds go first.
		select {
		case op := <-g.ops:
			g.apply(ctx, op)
			continue
		default:
		}
		select {
		case op := <-g.ops:
			g.apply(ctx, op)
		case change := <-g.watch.Changes():
			g.inspect(ctx, change.String())
		case <-tick.C:
			g.inspect(ctx, "")
		case <-ctx.Done():
			return g.drain(ctx)
		}
	}
}

// drain writes what was decided before the end.
func (g *gate) drain(ctx context.Context) error {
	for {
		select {
		case op := <-g.ops:
			g.apply(ctx, op)
		default:
			return nil
		}
	}
}

func (g *gate) apply(ctx context.Context, op gateOp) {
	var err error
	if op.remove.IsValid() {
		err = g.nft.Remove(op.remove)
	} else {
		// The time that the op lay in the queue is not given away.
		op.element.Remaining = min(op.element.Remaining, op.element.Timeout)
		err = g.nft.Add(op.element)
	}
	if err == nil {
		if !op.remove.IsValid() {
			delay := time.Since(op.caused)
			g.note(func(s *control.Gate) {
				s.Adds++
				s.LastDelay = control.Duration{Duration: delay}
				s.MaxDelay.Duration = max(s.MaxDelay.Duration, delay)
			})
		}
		return
	}
	g.note(func(s *control.Gate) { s.Errors++; s.LastError = err.Error() })
	if errors.Is(err, nft.ErrTableGone) {
		g.repair(ctx, "it was gone when an address was to be added")
		return
	}
	g.log.Error("the gate could not be written", "error", err)
	g.broken = !errors.Is(err, nft.ErrElement)
}

// inspect looks at the table and repairs it. reason is what the watch saw, ""
// for the regular look.
func (g *gate) inspect(ctx context.Context, reason string) {
	err := g.nft.Check()
	switch {
	case errors.Is(err, nft.ErrTableGone), errors.Is(err, nft.ErrChanged):
		if reason == "" {
			reason = err.Error()
		}
		g.repair(ctx, reason)
	case err != nil:
		g.note(func(s *control.Gate) { s.Errors++; s.LastError = err.Error() })
		g.log.Error("the gate could not be checked", "error", err)
	case g.overflow.Swap(false):
		g.rebuild(ctx, "more changes came than could be written one by one")
	case g.broken:
		g.rebuild(ctx, "the last change could not be written")
	}
}

// repair builds the table anew after somebody took it away.
func (g *gate) repair(ctx context.Context, reason string) {
	g.note(func(s *control.Gate) {
		s.Up = false
		s.Losses++
		s.LastLoss, s.LastLossAt = reason, control.Time{Time: time.Now()}
	})
	g.log.Warn("the gate was lost", "reason", reason)
	g.publish("gate", "lost: "+reason)
	g.rebuild(ctx, reason)
}

func (g *gate) rebuild(ctx context.Context, why string) {
	start := time.Now()
	want, err := g.snapshot(ctx)
	if err == nil {
		err = g.nft.Rebuild(want)
	}
	if errors.Is(err, nft.ErrElement) {
		g.log.Error("the gate is built without some members", "error", err)
		err = nil
	}
	if err != nil {
		g.broken = true
		g.note(func(s *control.Gate) { s.Errors++; s.LastError = err.Error() })
		g.log.Error("the gate could not be rebuilt: trying again", "error", err, "every", checkEvery)
		return
	}
	g.broken = false
	g.note(func(s *control.Gate) { s.Up = true; s.Rebuilds++ })
	g.log.Warn("the gate was rebuilt", "members", len(want), "took", time.Since(start), "reason", why)
	g.publish("gate", fmt.Sprintf("rebuilt with %d members: %s", len(want), why))
}

func (g *gate) publish(event, reason string) {
	now := time.Now()
	g.hub.Publish(now, control.Event{Event: event, Time: control.Time{Time: now}, Reason: reason})
}

func (g *gate) note(f func(*control.Gate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

func (g *gate) status() control.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}

func (g *gate) close() error {
	var errs []error
	if g.watch != nil {
		errs = append(errs, g.watch.Close())
	}
	return errors.Join(append(errs, g.nft.Close())...)
}

// runWatch reads who else changes rulesets.
func (g *gate) runWatch(ctx context.Context, ready func()) error {
	ready()
	return g.watch.Run(ctx)
}

package gate

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/nft"
)

// ask runs do in the gate's goroutine when all that was sent before is done.
func (g *Gate) ask(ctx context.Context, do func(context.Context) error) error {
	q := question{do: do, done: make(chan error, 1)}
	return message.Ask(ctx, g.asked, q, q.done)
}

// Run is the task.
func (g *Gate) Run(ctx context.Context) error {
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
		case <-g.rested():
			g.alone(func() { g.compare(ctx, g.doubted) })
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
func (g *Gate) changes() <-chan nft.Change {
	if w := g.watch.Load(); w != nil {
		return w.Changes()
	}
	return nil
}

// drain does what is queued.
func (g *Gate) drain(ctx context.Context) {
	for len(g.ops) > 0 {
		g.take(ctx, <-g.ops)
	}
}

// maxGather bounds the ops of one transaction.
const maxGather = 64

// take does an op. If it adds an element, those queued behind it that do so too
// are written with it.
func (g *Gate) take(ctx context.Context, op operation) {
	crowd := []operation{op}
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

func (op *operation) adds() bool    { return op.element.Addr.IsValid() }
func (op *operation) removes() bool { return op.remove.IsValid() }

func (g *Gate) apply(ctx context.Context, op operation) {
	if op.adds() || op.removes() {
		g.failed(ctx, g.put(op))
		return
	}
	g.stale = true
	g.mend(ctx)
}

// put writes one op.
func (g *Gate) put(op operation) error {
	if op.adds() {
		return g.addAll([]operation{op})
	}
	err := g.nft.Remove(op.remove)
	if err != nil && !errors.Is(err, nft.ErrElement) { // else no set could hold it
		g.shutLater(netip.PrefixFrom(op.remove, op.remove.BitLen()))
	}
	return err
}

// failed does what an error of put needs.
func (g *Gate) failed(ctx context.Context, err error) {
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

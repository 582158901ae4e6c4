package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/nft"
)

// connections ends connections in progress, as *nft.Cutter does.
type connections interface {
	Cut(ports []uint16, from ...netip.Prefix) (sockets, entries int, err error)
	Forget(ports []uint16, from ...netip.Prefix) (entries int, err error)
	Close() error
}

// cutter is the goroutine that ends connections in progress: at once where
// somebody ordered it, and soon where a grant ran out.
type cutter struct {
	kernel  connections // nil: it cannot be had
	missing string
	log     *slog.Logger
	set     atomic.Pointer[cutSettings]
	asked   chan cutOrder
	expired chan netip.Prefix
	dropped atomic.Uint64
}

// cutSettings are what the configuration says, for any goroutine.
type cutSettings struct {
	// ports are those that members connect to, and are led to.
	ports []uint16
	// onExpiry cuts when a grant runs out; forget deletes what connection
	// tracking remembers of it then.
	onExpiry, forget bool
}

type cutOrder struct {
	prefixes []netip.Prefix
	keep     bool // what is in progress
	done     chan cutResult
}

type cutResult struct {
	sockets, entries int
	err              error
}

// The bounds of a cutter: what runs out together is cut together.
const (
	cutQueue = 4096
	cutBatch = 100 * time.Millisecond
)

func openCutter(settings *cutSettings, log *slog.Logger) *cutter {
	c := newCutter(settings, log)
	k, err := nft.OpenCutter(0)
	if err != nil {
		c.missing = err.Error()
		log.Warn("connections in progress cannot be ended", "error", err)
		return c
	}
	c.kernel = k
	return c
}

// newCutter is one that cannot end anything yet.
func newCutter(settings *cutSettings, log *slog.Logger) *cutter {
	c := &cutter{log: log, asked: make(chan cutOrder), expired: make(chan netip.Prefix, cutQueue)}
	c.set.Store(settings)
	return c
}

func settingsOf(g *config.Gate) *cutSettings {
	s := &cutSettings{
		ports:    g.Ports,
		onExpiry: g.CutOnExpiry && g.Mode != nft.Observe,
		forget:   g.Mode == nft.Redirect,
	}
	if g.Mode == nft.Redirect {
		s.ports = append(slices.Clone(g.Ports), g.RelayPort)
	}
	return s
}

// ranOut says that a grant ended. It never waits.
func (c *cutter) ranOut(p netip.Prefix) {
	if s := c.set.Load(); !s.onExpiry && !s.forget {
		return
	}
	select {
	case c.expired <- p:
	default:
		c.dropped.Add(1)
	}
}

// cut ends the connections of some prefixes, or with keep forgets those that have
// ended, and waits until that is done.
func (c *cutter) cut(ctx context.Context, list []netip.Prefix, keep bool) (sockets, entries int, err error) {
	o := cutOrder{prefixes: list, keep: keep, done: make(chan cutResult, 1)}
	if err := message.Send(ctx, c.asked, o); err != nil {
		return 0, 0, err
	}
	r, err := message.Await(ctx, o.done)
	return r.sockets, r.entries, cmp.Or(r.err, err)
}

func (c *cutter) run(ctx context.Context) error {
	var batch []netip.Prefix
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-c.asked:
			o.done <- c.now(o)
		case p := <-c.expired:
			if batch = append(batch, p); len(batch) == 1 {
				due = time.After(cutBatch)
			}
			if len(batch) < cutQueue {
				continue
			}
			c.end(batch)
			batch, due = nil, nil
		case <-due:
			c.end(batch)
			batch, due = nil, nil
		}
	}
}

func (c *cutter) now(o cutOrder) (r cutResult) {
	s := c.set.Load()
	switch {
	case o.keep && !s.forget:
	case c.kernel == nil:
		r.err = errors.New(c.missing)
	case o.keep:
		_, r.err = c.kernel.Forget(s.ports, o.prefixes...)
	default:
		r.sockets, r.entries, r.err = c.kernel.Cut(s.ports, o.prefixes...)
	}
	return r
}

// end does what the end of some grants needs. Whoever was granted again since
// may lose a connection; nobody keeps one that should be gone.
func (c *cutter) end(batch []netip.Prefix) {
	if c.kernel == nil {
		return
	}
	s := c.set.Load()
	var err error
	if s.onExpiry {
		var sockets, entries int
		sockets, entries, err = c.kernel.Cut(s.ports, batch...)
		if sockets+entries > 0 {
			c.log.Info("connections ended with their grants", "grants", len(batch), "sockets", sockets, "entries", entries)
		}
	} else if s.forget {
		_, err = c.kernel.Forget(s.ports, batch...)
	}
	if err != nil {
		c.log.Error("connections of grants that ran out could not be ended", "error", err)
	}
}

func (c *cutter) close() error {
	if c.kernel == nil {
		return nil
	}
	return c.kernel.Close()
}

// cutWords tells what was cut.
func cutWords(sockets, entries int) string {
	if sockets+entries == 0 {
		return ""
	}
	return fmt.Sprintf("; what was in progress was cut (sockets: %d, entries of connection tracking: %d)", sockets, entries)
}

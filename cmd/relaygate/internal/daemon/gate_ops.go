//go:build linux

package daemon

import (
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz/grant"
	"relaygate/nft"
)

// element is false for what ran out.
func element(p netip.Prefix, until time.Time, lifetime time.Duration, now time.Time) (nft.Element, bool) {
	left := until.Sub(now)
	if until.IsZero() || left <= 0 {
		return nft.Element{}, false
	}
	return nft.Element{Addr: p.Addr(), Timeout: max(lifetime, left), Remaining: left}, true
}

// project lists what the kernel should hold; it runs in the owner's goroutine.
func (g *gate) project(t *grant.Table, now time.Time) projection {
	p := projection{at: now, generation: g.generation, members: g.elements(t.Told(now), t.Len(), now)}
	g.generation++
	return p
}

// elements are about n of the gate's members.
func (g *gate) elements(members iter.Seq2[netip.Prefix, time.Time], n int, now time.Time) []nft.Element {
	list := make([]nft.Element, 0, n)
	for prefix, until := range members {
		if e, ok := element(prefix, until, g.lifetime, now); ok {
			list = append(list, e)
		}
	}
	return list
}

// add, remove and restatic hand work over and never wait: they are called by
// the owner. What admit took before goes before.
func (g *gate) add(gr grant.Grant, now, caused time.Time) {
	if gr.Source == grant.Always {
		return
	}
	g.flush(false)
	for p := range grant.Members(gr.Prefix) {
		if e, ok := element(p, gr.Expires, g.lifetime, now); ok {
			g.send(gateOp{element: e, caused: caused})
		}
	}
}

// remove shuts out what a grant let in, unless another grant does: covered
// finds that one.
func (g *gate) remove(gr grant.Grant, now time.Time, covered func(netip.Addr) (grant.Grant, bool)) {
	g.flush(false)
	for p := range grant.Members(gr.Prefix) {
		g.send(gateOp{remove: p.Addr()})
		if other, ok := covered(p.Addr()); ok && other.Source != grant.Always {
			if e, ok := element(p, other.Expires, g.lifetime, now); ok {
				g.send(gateOp{element: e, caused: now})
			}
		}
	}
}

func (g *gate) restatic(static []netip.Prefix) {
	g.flush(false)
	g.static.Store(&static)
	g.send(gateOp{})
}

func (g *gate) send(op gateOp) {
	op.generation = g.generation
	g.queued.Add(1)
	select {
	case g.ops <- op:
	default:
		g.queued.Add(-1)
		if op.removes() {
			g.shutLater(netip.PrefixFrom(op.remove, op.remove.BitLen()))
		}
		g.refresh()
	}
}

// shutLater notes what a rebuild must shut out that only adds, which is that of sets
// of the administrator's: others' elements may be there. Each is noted once, however
// often it comes and goes while the kernel takes no removal.
func (g *gate) shutLater(list ...netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stats.Mode != nft.UserSets.String() {
		return
	}
	if g.late == nil {
		g.late = make(map[netip.Prefix]struct{})
	}
	for _, p := range list {
		g.late[p] = struct{}{}
	}
}

// shut does that.
func (g *gate) shut() error {
	g.mu.Lock()
	list := slices.Collect(maps.Keys(g.late))
	g.late = nil
	g.mu.Unlock()
	for i, p := range list {
		g.beat.Store(time.Now().UnixNano()) // a million take a while
		for m := range grant.Members(p) {
			if err := g.nft.Remove(m.Addr()); err != nil && !errors.Is(err, nft.ErrElement) {
				g.shutLater(list[i:]...)
				return err
			}
		}
	}
	return nil
}

// refresh asks for the whole table to be written anew.
func (g *gate) refresh() {
	g.overflow.Store(true)
	wake(g.more)
}

package gate

import (
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/message"
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

// SetLifetime changes how long an element lasts that a login opens. It is for the owner,
// as is what follows.
func (g *Gate) SetLifetime(d time.Duration) { g.lifetime = d }

// Project lists what the kernel should hold.
func (g *Gate) Project(t *grant.Table, now time.Time) Projection {
	p := Projection{at: now, generation: g.generation, members: g.elements(t.Told(now), t.Len(), now)}
	g.generation++
	return p
}

// elements are about n of the gate's members.
func (g *Gate) elements(members iter.Seq2[netip.Prefix, time.Time], n int, now time.Time) []nft.Element {
	list := make([]nft.Element, 0, n)
	for prefix, until := range members {
		if e, ok := element(prefix, until, g.lifetime, now); ok {
			list = append(list, e)
		}
	}
	return list
}

// Write hands a change of the table over, and never waits. What Admit took before goes
// before. Always rules are static members.
func (g *Gate) Write(t *grant.Table, c *grant.Change, now time.Time) {
	if c.Static {
		g.restatic(t.Static())
	}
	if c.Rebuild { // more changed than is told
		g.shutLater(c.Closed...)
		g.Refresh()
	}
	switch {
	case c.Grant.Source == grant.Always:
	case c.Arm:
		g.add(c.Grant, now, c.Kind != grant.Granted)
	case c.Kind == grant.Revoked, c.Kind == grant.Expired:
		g.remove(c.Grant, now, t)
	}
}

// add lets a grant in; held says that the kernel has an element of it.
func (g *Gate) add(gr grant.Grant, now time.Time, held bool) {
	g.Flush(false)
	for p := range grant.Members(gr.Prefix) {
		if e, ok := element(p, gr.Expires, g.lifetime, now); ok {
			g.send(operation{element: e, made: now, held: held})
		}
	}
}

// remove shuts out what a grant let in, unless another of the table does.
func (g *Gate) remove(gr grant.Grant, now time.Time, t *grant.Table) {
	g.Flush(false)
	for p := range grant.Members(gr.Prefix) {
		g.send(operation{remove: p.Addr()})
		if other, ok := t.Get(p.Addr()); ok && other.Source != grant.Always {
			if e, ok := element(p, other.Expires, g.lifetime, now); ok {
				g.send(operation{element: e, made: now})
			}
		}
	}
}

func (g *Gate) restatic(static []netip.Prefix) {
	g.Flush(false)
	g.static.Store(&static)
	g.send(operation{})
}

func (g *Gate) send(op operation) {
	op.generation = g.generation
	g.queued.Add(1)
	select {
	case g.ops <- op:
	default:
		g.queued.Add(-1)
		if op.removes() {
			g.shutLater(netip.PrefixFrom(op.remove, op.remove.BitLen()))
		}
		g.Refresh()
	}
}

// shutLater notes what a rebuild must shut out that only adds, which is that of sets
// of the administrator's: others' elements may be there. Each is noted once, however
// often it comes and goes while the kernel takes no removal.
func (g *Gate) shutLater(list ...netip.Prefix) {
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
func (g *Gate) shut() error {
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

// Refresh asks for the whole table to be written anew.
func (g *Gate) Refresh() {
	g.overflow.Store(true)
	message.Wake(g.more)
}

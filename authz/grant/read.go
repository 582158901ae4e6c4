package grant

import (
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Get finds the grant that lets an address relay: the narrowest one. A grant
// whose time ran out is not found, even before Expire.
func (t *Table) Get(a netip.Addr) (Grant, bool) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Grant{}, false
	}
	for i := range t.covering(a) {
		if t.live(i) {
			return t.grant(i), true
		}
	}
	for _, g := range t.always {
		if g.Prefix.Contains(a) {
			return g, true
		}
	}
	return Grant{}, false
}

// Covers reports whether one grant or always rule lets in all of a prefix.
func (t *Table) Covers(p netip.Prefix) bool {
	all := func(g *Grant) bool { return g.Prefix.Bits() <= p.Bits() && g.Prefix.Contains(p.Addr()) }
	for i := range t.covering(p.Addr()) {
		if g := t.grant(i); t.live(i) && all(&g) {
			return true
		}
	}
	return slices.ContainsFunc(t.always, func(g Grant) bool { return all(&g) })
}

// Of is the grant of exactly this prefix, if there is one.
func (t *Table) Of(p netip.Prefix) (Grant, bool) {
	g := t.standing(p)
	return g, g.Source != 0
}

// All goes through every grant, in no order and without a copy of the table.
// The table may not be changed meanwhile.
func (t *Table) All() iter.Seq[Grant] {
	return func(yield func(Grant) bool) {
		for _, g := range t.always {
			if !yield(g) {
				return
			}
		}
		for i := range t.all() {
			if t.live(i) && !yield(t.grant(i)) {
				return
			}
		}
	}
}

// Part visits the grants of so many rows, from one on, and returns with which row
// the next part begins; that is 0 at the end, and to begin. So a large table can be
// read piece by piece while others use it: what changes meanwhile may be missing.
func (t *Table) Part(from uint32, rows int, visit func(*Grant)) (next uint32) {
	if from == 0 {
		for i := range t.always {
			g := t.always[i]
			visit(&g)
		}
	}
	return t.part(from, rows, func(i uint32, _ *entry) {
		g := t.grant(i)
		visit(&g)
	})
}

// PartPrefixes is Part for who needs no more than what is granted, which takes a
// tenth of the time.
func (t *Table) PartPrefixes(from uint32, rows int, visit func(netip.Prefix)) (next uint32) {
	if from == 0 {
		for i := range t.always {
			visit(t.always[i].Prefix)
		}
	}
	return t.part(from, rows, func(_ uint32, e *entry) { visit(e.key().prefix()) })
}

func (t *Table) part(from uint32, rows int, visit func(uint32, *entry)) (next uint32) {
	from = max(from, 1)
	for i := range uint32(rows) {
		if from+i > t.entries.used {
			return 0
		}
		if t.live(from + i) {
			visit(from+i, t.entry(from+i))
		}
	}
	return from + uint32(rows)
}

// Project goes through what was promised and until when, in no order; where grants
// overlap an element comes more than once, and the latest counts. Always rules are
// in Static. The table may not be changed meanwhile.
func (t *Table) Project(now time.Time) iter.Seq2[netip.Prefix, time.Time] {
	at := t.see(now)
	return t.project(func(i uint32, e *entry) uint32 {
		t.settle(i, at)
		return e.expires
	}, at)
}

// Told is Project for what the kernel should hold at this moment: until when it was
// told. What is promised beyond comes in time, as Rearmed changes.
func (t *Table) Told(now time.Time) iter.Seq2[netip.Prefix, time.Time] {
	at := t.see(now)
	return t.project(func(i uint32, e *entry) uint32 {
		if e.armed > at {
			return e.armed
		}
		t.settle(i, at) // its Rearmed change is late
		return e.expires
	}, at)
}

func (t *Table) project(until func(uint32, *entry) uint32, at uint32) iter.Seq2[netip.Prefix, time.Time] {
	return func(yield func(netip.Prefix, time.Time) bool) {
		for i, e := range t.all() {
			if e.state != open {
				continue
			}
			end := until(i, e)
			if end <= at {
				continue
			}
			for p := range Members(e.key().prefix()) {
				if !yield(p, t.clock.time(end)) {
					return
				}
			}
		}
	}
}

// Len counts the grants that were not expired yet.
func (t *Table) Len() int { return t.granted + len(t.always) }

// Dropped counts what the bounds left out.
func (t *Table) Dropped() Dropped { return t.dropped }

// Stopped counts what the brakes stopped since the start.
func (t *Table) Stopped() Stopped { return t.stopped }

// live reports whether an entry's grant stands at the latest time seen.
func (t *Table) live(i uint32) bool {
	at := t.clock.ticks(t.clock.last)
	return t.entry(i).state == open && t.promise(i, at) > at
}

// grant copies an entry out of the table.
func (t *Table) grant(i uint32) Grant {
	e := t.entry(i)
	g := Grant{
		Prefix:   e.key().prefix(),
		Since:    t.clock.time(e.since),
		Expires:  t.clock.time(t.promise(i, t.clock.ticks(t.clock.last))),
		Source:   e.source,
		Sessions: len(t.sessions[i]),
	}
	if d := t.details[i]; d != nil {
		g.Logins, g.Conn, g.TLS = int(d.logins), d.conn(), d.tls
		g.Protocol, g.Mechanism, g.Answer = g.Conn.Service.Protocol, d.mechanism.String(), d.answer.String()
		if d.admin != nil {
			g.By, g.Note = d.admin.by, d.admin.note
		}
		g.Users = t.users(i, d)
	}
	return g
}

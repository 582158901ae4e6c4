package authz

import (
	"iter"
	"net/netip"
	"time"
)

// Kept is what the journal knows about one prefix, as a state file keeps it.
type Kept struct {
	Prefix netip.Prefix
	// Earned is true for what was granted, or concerned the administrator.
	Earned bool
	// Until is when its grant closes; Open means that it has no deadline.
	Until  time.Time
	Open   bool
	Events []Event
}

// Kept tells into k, whose slice it uses again, what is known about exactly this
// prefix.
func (e *Evidence) Kept(p netip.Prefix, k *Kept) bool {
	e.settle()
	p, err := NormalPrefix(p)
	if err != nil {
		return false
	}
	if r := e.earned.records[p]; r != nil {
		r.kept(k, true)
		return true
	}
	if r := e.strangers.records[p]; r != nil {
		r.kept(k, false)
		return true
	}
	return false
}

// Forgotten are those of list of which nothing is known.
func (e *Evidence) Forgotten(list []netip.Prefix) (gone []netip.Prefix) {
	e.settle()
	for _, p := range list {
		if e.earned.records[p] == nil && e.strangers.records[p] == nil {
			gone = append(gone, p)
		}
	}
	return gone
}

// Export goes through all that is known, the oldest first. The journal may not
// be changed meanwhile.
func (e *Evidence) Export() iter.Seq[Kept] {
	return func(yield func(Kept) bool) {
		e.settle()
		for _, p := range []*pool{&e.earned, &e.strangers} {
			for at := p.order.Front(); at != nil; at = at.Next() {
				var k Kept
				at.Value.(*record).kept(&k, p == &e.earned)
				if !yield(k) {
					return
				}
			}
		}
	}
}

// Import adds what was exported before a restart, within the bounds and without
// what is too old. Names that its logins prove are known again.
func (e *Evidence) Import(now time.Time, kept iter.Seq[Kept]) {
	e.settle()
	for k := range kept {
		prefix, err := NormalPrefix(k.Prefix)
		if err != nil {
			continue
		}
		p := &e.strangers
		if k.Earned {
			p = &e.earned
		}
		r := &record{prefix: prefix, until: k.Until, open: k.Open}
		for _, ev := range k.Events {
			ev.Prefix, ev.Count = prefix, max(ev.Count, 1)
			ev.bound()
			if ev.Kind == EventLogin {
				e.learn(ev.User)
			}
			r.keep(ev)
		}
		r.until, r.open = k.Until, k.Open
		if r.stale(now, e.cfg.Retain) || e.earned.records[prefix] != nil || e.strangers.records[prefix] != nil {
			continue
		}
		if place := p.insert(prefix, now); place != nil {
			r.element = place.element
			*place = *r
		}
	}
}

func (r *record) kept(k *Kept, earned bool) {
	*k = Kept{Prefix: r.prefix, Earned: earned, Until: r.until, Open: r.open, Events: r.events(k.Events[:0])}
}

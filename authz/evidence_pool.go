package authz

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// pool holds the records of many prefixes, the one touched longest ago first.
type pool struct {
	records map[netip.Prefix]*record
	order   *list.List
	// lengths counts the records per family and prefix length.
	lengths [2][129]int
	limit   int
	dropped uint64
}

// record is what is known about one prefix.
type record struct {
	prefix            netip.Prefix
	decisions, doubts []note
	last              time.Time
	// until is when its grant closes, open means without a deadline.
	until   time.Time
	open    bool
	element *list.Element
}

func newPool(limit int) pool {
	return pool{records: make(map[netip.Prefix]*record), order: list.New(), limit: limit}
}

// insert makes a record, in the place of the oldest one if the pool is full. It
// returns nil if that place cannot be had: grants that stand are not forgotten.
func (p *pool) insert(prefix netip.Prefix, now time.Time) *record {
	if len(p.records) >= p.limit && !p.evict(now) {
		return nil
	}
	r := &record{prefix: prefix}
	r.element = p.order.PushBack(r)
	p.records[prefix] = r
	p.lengths[family(prefix.Addr())][prefix.Bits()]++
	return r
}

// evictionTries bounds the search for a record that may go, per insertion.
const evictionTries = 16

func (p *pool) evict(now time.Time) bool {
	p.dropped++
	for range min(evictionTries, p.order.Len()) {
		r := p.order.Front().Value.(*record)
		if !r.standing(now) {
			p.remove(r)
			return true
		}
		p.order.MoveToBack(r.element)
	}
	return false
}

func (p *pool) touch(r *record) { p.order.MoveToBack(r.element) }

func (p *pool) remove(r *record) {
	p.order.Remove(r.element)
	delete(p.records, r.prefix)
	p.lengths[family(r.prefix.Addr())][r.prefix.Bits()]--
}

// prune removes stale records from the front. One with a grant that stands goes
// to the back, so that it does not hide others.
func (p *pool) prune(now time.Time, retain time.Duration) {
	for range evictionTries {
		front := p.order.Front()
		if front == nil {
			return
		}
		r := front.Value.(*record)
		switch {
		case r.stale(now, retain):
			p.remove(r)
		case r.standing(now) && now.Sub(r.last) > retain:
			p.order.MoveToBack(front)
		default:
			return
		}
	}
}

// standing reports whether the record's grant is open.
func (r *record) standing(now time.Time) bool { return r.open || r.until.After(now) }

// stale reports whether the record has outlived its use.
func (r *record) stale(now time.Time, retain time.Duration) bool {
	return !r.standing(now) && now.Sub(r.last) > retain && now.Sub(r.until) > retain
}

// note adds an event and takes note of what it does to the grant.
func (r *record) note(ev Event) {
	switch ev.Kind {
	case EventGranted, EventRenewed:
		r.until, r.open = ev.Until, ev.Open
	case EventExpired, EventRevoked:
		r.until, r.open = ev.Time, false
	default:
	}
	r.keep(ev)
}

// keep adds an event, or counts it into an equal one.
func (r *record) keep(ev Event) {
	if ev.Last.After(r.last) {
		r.last = ev.Last
	}
	if n := noteOf(&ev); ev.Kind.doubt() {
		r.doubts = count(r.doubts, n, doubtsKept)
	} else {
		r.decisions = count(r.decisions, n, decisionsKept)
	}
}

// count adds n to notes, into an equal one if there is one. A turn in the story
// (granted, expired, revoked) is never joined, nor anything across it.
func count(notes []note, n note, limit int) []note {
	for i := len(notes) - 1; i >= 0 && !notes[i].turn() && !n.turn(); i-- {
		if notes[i].same(&n) {
			notes[i].repeat(&n)
			return notes
		}
	}
	if len(notes) >= limit {
		at := 0
		if notes[0].kind == EventGranted && !slices.ContainsFunc(notes[1:], func(n note) bool { return n.turn() }) {
			at = 1 // what opened the present grant stays
		}
		notes = slices.Delete(notes, at, at+1)
	}
	return append(notes, n)
}

// events appends what is known, the decisions first.
func (r *record) events(out []Event) []Event {
	for _, notes := range [][]note{r.decisions, r.doubts} {
		for i := range notes {
			out = append(out, notes[i].event(r.prefix))
		}
	}
	return out
}

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
	Until time.Time
	Open  bool
	// Notes are its events in the journal's own form, see Events.
	Notes []byte
}

// Events are those of the notes; it fails if these cannot be read.
func (k *Kept) Events() (list []Event, err error) {
	if err := notes(k.Notes).check(); err != nil {
		return nil, err
	}
	for _, n := range notes(k.Notes).all() {
		list = append(list, n.event(k.Prefix))
	}
	return list, nil
}

// Last is when the last of its events was.
func (k *Kept) Last() (last time.Time, err error) {
	if err := notes(k.Notes).check(); err != nil {
		return last, err
	}
	at := int64(0)
	for _, n := range notes(k.Notes).all() {
		at = max(at, n.last())
	}
	return fromNanos(at), nil
}

// Kept tells into k, whose memory it uses again, what is known about exactly this
// prefix.
func (e *Evidence) Kept(p netip.Prefix, k *Kept) bool {
	e.settle()
	p, err := NormalPrefix(p)
	if err != nil {
		return false
	}
	at := placeOf(p)
	if r := e.earned.find(at); r != nil {
		r.kept(k, true)
		return true
	}
	if r := e.strangers.find(at); r != nil {
		r.kept(k, false)
		return true
	}
	return false
}

// Import adds what was kept before a restart, within the bounds and without what is
// too old or cannot be read. Names that its logins prove are known again.
func (e *Evidence) Import(now time.Time, kept iter.Seq[Kept]) {
	e.settle()
	for k := range kept {
		events, err := k.Events()
		if err != nil {
			continue
		}
		prefix, err := NormalPrefix(k.Prefix)
		if err != nil {
			continue
		}
		r := record{place: placeOf(prefix), until: nanos(k.Until), open: k.Open}
		for _, ev := range events {
			ev.bound()
			if ev.Kind == EventLogin {
				e.learn(ev.User)
			}
			e.text = appendNote(e.text[:0], &ev)
			r.keep(e.text)
		}
		if r.stale(now.UnixNano(), e.cfg.Retain) || e.earned.find(r.place) != nil || e.strangers.find(r.place) != nil {
			continue
		}
		p := &e.strangers
		if k.Earned {
			p = &e.earned
		}
		if in := p.insert(r.place, now); in != nil {
			r.before, r.next = in.before, in.next
			*in = r
		}
	}
}

func (r *record) kept(k *Kept, earned bool) {
	*k = Kept{
		Prefix: r.prefix(), Earned: earned, Until: fromNanos(r.until), Open: r.open,
		Notes: append(append(k.Notes[:0], r.decisions...), r.doubts...),
	}
}

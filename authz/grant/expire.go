package grant

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"time"

	"relaygate/authz"
)

// Expire closes what ran out until now, ends denials, and renews what the
// kernel was told where more is promised (Rearmed). Call it before Admit of the
// same moment, and at Next. It does a bounded piece of work: while there is more,
// Next is not in the future.
func (t *Table) Expire(now time.Time) []Change {
	at := t.see(now)
	changes := t.endDenials(now)
	first := len(changes)
	for t.due.n > 0 && t.due.at(0).at <= at && len(changes) < maxChanges {
		i := t.due.at(0).slot
		if t.entry(i).state == dead {
			t.release(i)
			t.due.pop()
			continue
		}
		c, ok := t.attend(now, i, at)
		if ok {
			changes = append(changes, c)
		}
		if t.entry(i).state != dead {
			t.due.replaceTop(timer{t.attention(i, at), i})
		}
	}
	slices.SortStableFunc(changes[first:], func(a, b Change) int {
		return cmp.Or(a.Grant.Expires.Compare(b.Grant.Expires), a.Grant.Prefix.Compare(b.Grant.Prefix))
	})
	return changes
}

// attend does what is due about one entry.
func (t *Table) attend(now time.Time, i, at uint32) (c Change, ok bool) {
	e := t.entry(i)
	t.settle(i, at)
	switch {
	case e.state == open && e.expires <= at:
		c, ok = Change{Kind: Expired, Time: now, Grant: t.grant(i), Reason: t.expiry(e)}, true
		t.close(i)
	case e.state == open && e.expires > e.armed &&
		(at >= back(e.armed, t.slack) || len(t.sessions[i]) == 0 && e.expires > e.armed+t.slack):
		e.armed = e.expires
		c, ok = Change{Kind: Rearmed, Time: now, Grant: t.grant(i), Arm: true, Reason: "its element is renewed before it runs out"}, true
	}
	t.prune(i, t.stale(at))
	if e.state == closed && e.links == 0 {
		t.bury(i)
	}
	return c, ok
}

// attention is when attend has something to do about an entry: before its
// element runs out, and when it does. It comes at least once in a lifetime, so
// that the users of open sessions do not seem gone.
func (t *Table) attention(i, at uint32) uint32 {
	e := t.entry(i)
	due := at
	switch {
	case e.state == open && at < back(e.armed, t.slack):
		due = e.armed - t.slack
	case e.state == open:
		due = e.expires
	default:
		for n := e.links; n != 0; n = t.link(n).next {
			due = max(due, t.link(n).seen+t.lifetime)
		}
	}
	return max(min(due, at+t.lifetime-t.slack), at+1)
}

func (t *Table) expiry(e *entry) string {
	const held = "its time ran out and it was not renewed: "
	switch {
	case e.brake == tooManyUsers:
		return held + t.shared()
	case e.brake == tooManyAddresses:
		return fmt.Sprintf("%sthe last user to log in already held %d addresses, which is the limit for one user", held, t.cfg.MaxAddresses)
	case e.source == Login:
		return "no login for " + authz.Span(t.cfg.Lifetime)
	}
	return "its time ran out"
}

func (t *Table) shared() string {
	return fmt.Sprintf("more than %d users logged in from it within %s: it counts as shared", t.cfg.MaxUsers, authz.Span(t.cfg.Lifetime))
}

// Next is when Expire has something to do at the latest; false if never.
func (t *Table) Next() (time.Time, bool) {
	next, ok := t.denialEnds, !t.denialEnds.IsZero()
	if t.due.n > 0 {
		if first := t.clock.time(t.due.at(0).at); !ok || first.Before(next) {
			next, ok = first, true
		}
	}
	return next, ok
}

func (t *Table) release(i uint32) {
	t.entry(i).state = free
	t.entries.release(i)
	t.dead--
}

// compact frees the rows of the dead at once where they are the most.
func (t *Table) compact(at uint32) {
	if t.dead > t.entries.n+chunkRows {
		t.reschedule(at)
	}
}

// reschedule makes all timers anew.
func (t *Table) reschedule(at uint32) {
	t.due.clear()
	for i := uint32(1); i <= t.entries.used; i++ {
		switch t.entry(i).state {
		case dead:
			t.release(i)
		case open, closed:
			t.due.push(timer{t.attention(i, at), i})
		case free:
		}
	}
}

// all goes through the entries that are open or closed. The loop may bury them.
func (t *Table) all() iter.Seq2[uint32, *entry] {
	return func(yield func(uint32, *entry) bool) {
		for i := uint32(1); i <= t.entries.used; i++ {
			if e := t.entry(i); (e.state == open || e.state == closed) && !yield(i, e) {
				return
			}
		}
	}
}

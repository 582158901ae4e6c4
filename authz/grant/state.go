package grant

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// Boot is a moment by the clock that neither a step of the wall clock nor
// suspend disturbs: CLOCK_BOOTTIME, and the kernel's boot_id that it counts in.
type Boot struct {
	ID string
	At time.Duration
}

// Saved is a grant as a state file keeps it. The row of a prefix is written
// anew with each change (Save) and deleted with Expired and Revoked; All gives
// all rows at once.
type Saved struct {
	Grant
	// Deadline is Grant.Expires by the clock since boot.
	Deadline Boot
}

// Save makes the row of a grant. boot is the same moment as now.
func Save(now time.Time, boot Boot, g Grant) Saved {
	return Saved{Grant: g, Deadline: Boot{ID: boot.ID, At: boot.At + g.Expires.Sub(now)}}
}

// Extend lets the grant stand for a lifetime from now at least, as an open session
// does.
func (s *Saved) Extend(now time.Time, boot Boot, lifetime time.Duration) {
	if s.Deadline.ID == boot.ID && s.Deadline.At-boot.At >= lifetime {
		return
	}
	s.Expires, s.Deadline = now.Add(lifetime), Boot{ID: boot.ID, At: boot.At + lifetime}
}

// left is how long the grant stands still: by the clock since boot, or after a
// reboot by the wall clock. If that went back since the grant was made, or since
// anything was kept last, nobody knows how much time has passed, and the grant is
// over.
func (s *Saved) left(now time.Time, boot Boot, kept time.Time) time.Duration {
	if s.Deadline.ID == boot.ID && boot.ID != "" {
		return s.Deadline.At - boot.At
	}
	wall := now.Round(0)
	if kept.After(wall) {
		return 0
	}
	for _, u := range s.Users {
		if u.Seen.Round(0).After(wall) {
			return 0
		}
	}
	if s.Since.Round(0).After(wall) {
		return 0
	}
	return s.Expires.Round(0).Sub(wall)
}

// State is what survives a restart besides the grants.
type State struct {
	Denials []Denial
	Paused  *Pause
	// Kept is when the state was kept last, by the wall clock; zero if that is not
	// known.
	Kept time.Time
}

// Restore takes over a State, and then the grants, into a table that has its
// policy. What the policy or a denial forbids, and what has no time left, is
// left out; no grant stands longer than its source allows from now. Restored
// grants are Granted changes, and those whose time ran out meanwhile Expired ones;
// sessions are for the caller to Hold again.
func (t *Table) Restore(now time.Time, boot Boot, s State, grants iter.Seq[Saved]) []Change {
	t.see(now)
	for _, d := range s.Denials {
		if p, err := authz.NormalPrefix(d.Prefix); err == nil && len(t.denials) < t.cfg.MaxDenials {
			d.Prefix = p
			t.denials[p] = d.kept(now, boot)
		}
	}
	if s.Paused != nil {
		p := *s.Paused
		t.paused = &p
	}
	changes := t.enforce(now)
	if t.paused != nil || grants == nil {
		return changes
	}
	var restored tally
	for g := range grants {
		if c, ok := t.restore(now, boot, s.Kept, &g); ok {
			restored.add(func() Change { return c })
		}
	}
	return append(changes, restored.sorted()...)
}

// opens says whether a gate can let in this prefix and no other address: IPv6Prefix
// may have been another one before. One that lets in whole networks would let in also
// those beside it, of which no rule was asked.
func (t *Table) opens(p netip.Prefix) bool {
	if !p.Addr().Is6() {
		return true
	}
	whole := t.Key(p.Addr()).Bits()
	return p.Bits() <= whole && (p.Bits() != 64 || whole == 64)
}

// over is the change of a grant that does not stand any more.
func over(now time.Time, p netip.Prefix, s *Saved) Change {
	c := Change{Kind: Expired, Time: s.Expires, Grant: s.Grant, Reason: "its time ran out while relaygate did not run"}
	if c.Grant.Prefix, c.Grant.Sessions = p, 0; s.Expires.After(now) {
		c.Time, c.Reason = now, "nobody knows how much of its time passed while relaygate did not run"
	}
	return c
}

// restore takes over one grant.
func (t *Table) restore(now time.Time, boot Boot, kept time.Time, s *Saved) (Change, bool) {
	p, err := authz.NormalPrefix(s.Prefix)
	if err != nil || !t.opens(p) {
		return Change{}, false
	}
	promised, longest := s.left(now, boot, kept), t.cfg.Lifetime
	switch {
	case s.Source == Manual:
		if expressible(p) {
			longest = max(s.Expires.Sub(s.Since), 0) // what it was given for
		}
	case s.Source != Login && s.Source != Import, p != t.Key(p.Addr()):
		return Change{}, false
	}
	left := min(promised, longest)
	if ticks(left) == 0 {
		return over(now, p, s), true
	}
	c, ok := t.put(now, p, left, s.Source, "it stood before relaygate was restarted")
	if !ok || c.Kind == Refused {
		return c, ok
	}
	i, at := t.find(keyOf(p)), t.clock.ticks(now)
	e := t.entry(i)
	e.since = min(e.since, t.clock.ticks(now.Add(s.Since.Round(0).Sub(now.Round(0)))))
	d := t.detailOf(i, s.Source == Manual)
	for _, u := range slices.Backward(s.Users) { // the oldest first
		// How long before the deadline, not when: the clock may have been set.
		age := s.Expires.Round(0).Sub(u.Seen.Round(0))
		seen := min(t.clock.ticks(now.Add(promised-age)), at)
		user := t.user(u.Name, e.key())
		if t.note(i, user, seen) > t.cfg.MaxUsers {
			e.brake = tooManyUsers
		}
		if d != nil {
			d.name(user, u, t.cfg.MaxUsers+1)
		}
	}
	t.prune(i, t.stale(at))
	if d != nil {
		d.setConn(s.Conn)
		d.logins, d.tls, d.mechanism, d.answer = uint32(max(s.Logins, 0)), s.TLS, intern(s.Mechanism), intern(s.Answer)
		if s.Source == Manual {
			d.admin = &admin{s.By, s.Note}
		}
	}
	// It goes on, and what opened it stays the beginning of its story, however many
	// restarts come.
	c.Kind, c.Grant = Renewed, t.grant(i)
	return c, true
}

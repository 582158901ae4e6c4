package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
)

// inherit takes over what stood before: from the state file, or, where there was
// none yet, from the gate's table.
func (d *daemon) inherit(was keeper.Restored) error {
	now := time.Now()
	if was.State.Paused != nil {
		d.log.Warn("relaygate is paused: nothing is granted", "by", was.State.Paused.By)
	}
	eng := d.owner.engine
	if d.keeper.Fresh() { // of a file that could not be read, denials and a pause may be known
		eng.Record(d.owner.grants().Restore(now, clock.Boot(), was.State, nil))
		return d.importElements(now)
	}
	d.owner.before = was.Counters
	alive, err := d.trust.Alive()
	if err != nil {
		d.log.Warn("sessions of before the restart hold nothing", "error", err)
	}
	if !d.opts.Config.FollowSessions {
		alive = nil
	}
	is := survivors{finder(alive), eng.MayAnnounce, now.Add(-d.opts.Config.MaxSession)}
	live := slices.DeleteFunc(slices.Clone(was.Sessions), func(s keeper.Session) bool { return !is.live(&s) })
	live, over, err := d.restore(now, was.State, &is, live)
	if err != nil {
		return err
	}
	n := d.owner.rejoin(now, live)
	for _, s := range was.Sessions {
		if d.owner.sessions.open[s.Conn] == nil {
			d.keeper.DropSession(s.Conn)
		}
	}
	d.log.Info("took over what stood before the start", "grants", eng.Grants().Len(), "over", over, "denials", len(was.State.Denials), "sessions", n)
	return nil
}

// restore takes over the grants that stand still, and those that a living session
// holds: nobody was there to renew them. It returns all such sessions, which besides
// those in live are the ones of the grants' last logins, and how many grants are over.
func (d *daemon) restore(now time.Time, was grant.State, is *survivors, live []keeper.Session) ([]keeper.Session, int, error) {
	var err error
	var ended []netip.Prefix
	t, since, over := d.owner.grants(), clock.Boot(), 0
	held := make(map[netip.Prefix]*grant.Session, len(live)) // the youngest
	hold := func(p netip.Prefix, s *grant.Session) {
		if held[p] == nil || held[p].Begin.Before(s.Begin) {
			held[p] = s
		}
	}
	for i := range live {
		hold(t.Key(live[i].Client), &live[i].Session)
	}
	changes := d.owner.engine.Record(t.Restore(now, since, was, func(yield func(grant.Saved) bool) {
		err = d.keeper.Grants(func(g *grant.Saved) bool {
			if s, ok := anchor(g); ok && is.live(&s) {
				live = append(live, s)
				hold(g.Prefix, &s.Session)
			}
			// Nobody's session keeps a shared address open.
			if s := held[g.Prefix]; s != nil && !olderThan(s, &g.Grant) && len(g.Users) <= d.opts.Config.MaxUsers {
				g.Extend(now, since, d.opts.Config.Lifetime)
			}
			if !yield(*g) {
				return false
			}
			switch stays, stands := t.Of(g.Prefix); {
			case !stands:
				d.keeper.Over(g.Prefix)
				if over++; len(ended) < cutQueue {
					ended = append(ended, g.Prefix)
				}
			case stays.Expires.Round(0).Before(g.Expires.Round(0).Add(-time.Second)):
				// The lifetime is a shorter one now: each start would promise it anew.
				d.keeper.Changed(&grant.Change{Kind: grant.Rearmed, Arm: true, Grant: stays})
			}
			return true
		})
	}))
	for i := range changes {
		if changes[i].Kind == grant.Expired { // its story goes on
			d.keeper.Changed(&changes[i])
		}
	}
	for _, p := range ended { // nobody has cut what is in progress
		if !t.Covers(p) {
			d.cutter.ranOut(p)
		}
	}
	if was.Paused != nil {
		d.keeper.SweepAgain() // a crash came before all that the pause closed was deleted
	}
	return live, over, err
}

// importElements takes over what our table held before, once: without a state
// file it is all that is known of the time before the start.
func (d *daemon) importElements(now time.Time) error {
	found, err := d.gate.Read()
	if err != nil {
		return fmt.Errorf("read what the gate holds: %w", err)
	}
	n := 0
	for _, e := range found {
		if c, ok := d.owner.grants().Import(now, e.Addr, e.Remaining); ok {
			d.owner.engine.Record([]grant.Change{c})
			d.keeper.Changed(&c)
			if c.Kind != grant.Refused {
				n++
			}
		}
	}
	if n > 0 {
		d.log.Info("took over what the gate held", "grants", n, "found", len(found))
	}
	return nil
}

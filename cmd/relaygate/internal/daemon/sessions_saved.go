package daemon

import (
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
)

// save writes down the sessions that last.
func (o *owner) save(now time.Time) {
	done := 0
	for _, c := range o.sessions.young {
		h := o.sessions.open[c] // nil if it is over
		if h != nil && now.Sub(h.since) < saveAfter {
			break
		}
		if done++; h != nil {
			o.keep(c, h)
		}
	}
	// In the same memory: in a storm the list is used up quickly.
	o.sessions.young = slices.Delete(o.sessions.young, 0, done)
}

// keep writes one session down, once.
func (o *owner) keep(c authz.Conn, h *held) {
	if !h.saved && hasSocket(c) {
		h.saved = o.keeper.PutSession(keeper.Session{Session: h.Session, Conn: c, Boot: clock.BootID()})
	}
}

// saveAgain writes down again what the state file has lost: sessions, and the counters.
func (o *owner) saveAgain() {
	o.counted = time.Time{}
	for c, h := range o.sessions.open {
		if h.saved {
			h.saved = false
			o.keep(c, h)
		}
	}
}

// survivors finds the sessions of before the restart that still live: by the same
// cookie since the same boot, and whose peer was heard of late, so that a reassigned
// address inherits nothing.
type survivors struct {
	find func(authz.Conn) (sockdiag.Session, bool)
	// mayAnnounce says of a peer that its connections are those of others.
	mayAnnounce func(netip.Addr) bool
	// since is when a session must have begun, for grant.max_session.
	since time.Time
}

func (s *survivors) live(was *keeper.Session) bool {
	now, ok := s.find(was.Conn)
	return ok && was.Boot == clock.BootID() && was.Boot != "" && hasSocket(was.Conn) && now.Silent < maxSilence &&
		(now.Remote == was.Conn.Client || s.mayAnnounce(now.Remote.Addr())) && was.Begin.After(s.since)
}

// rejoin lets sessions hold their grants again.
func (o *owner) rejoin(now time.Time, live []keeper.Session) (n int) {
	for _, s := range live {
		if o.sessions.open[s.Conn] == nil && o.hold(now, s.Conn, s.Session, true) {
			n++
		}
	}
	return n
}

// anchor is the session of a grant's last login, which need not have been written
// down itself.
func anchor(g *grant.Saved) (keeper.Session, bool) {
	if !hasSocket(g.Conn) || len(g.Users) == 0 {
		return keeper.Session{}, false
	}
	s := grant.Session{Client: g.Conn.Client.Addr(), User: g.Users[0].Name, Begin: g.Users[0].Seen}
	return keeper.Session{Session: s, Conn: g.Conn, Boot: g.Deadline.ID}, true
}

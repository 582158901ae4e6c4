package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/control"
)

// How sessions are followed besides the kernel's word that a connection closed.
const (
	// surveyEvery is the pace of the looks at the socket tables, and
	// surveySoon the one while there are sessions whose end only such a look
	// shows: those of before a restart, and those of packet sockets. But a look
	// that takes long is not made again before surveyShare times as long.
	surveyEvery = time.Minute
	surveySoon  = time.Second
	surveyShare = 100
	// maxSilence: whose peer was not heard for longer holds nothing. The
	// address may be another's by then.
	maxSilence = 15 * time.Minute
	// saveAfter: most sessions are over by then and need not be written down.
	saveAfter = 5 * time.Second
)

// held is an open session that holds a grant.
type held struct {
	grant.Session
	since  time.Time
	silent bool // it holds nothing until its peer is heard again
	saved  bool
	// untold: no event will tell that it closed.
	untold bool
}

// sessions are those that hold grants. They belong to the owner.
type sessions struct {
	open  map[authz.Conn]*held
	young []authz.Conn // not written down yet, the oldest first
	last  uint64       // session number
	// woke is when the machine slept last, and slept for how long.
	woke  time.Time
	slept time.Duration
	// admitted are the connections whose logins were granted of late: no other
	// holds a grant, which may rest on somebody else's login.
	admitted []authz.Conn
}

// follow does what the last Feed says about sessions.
func (o *owner) follow(now time.Time) {
	for _, h := range o.engine.Holds() {
		if !h.Open {
			o.closed(now, h.Conn, now.Add(-age(now, h.Time)), "closed")
			continue
		}
		s := grant.Session{Client: h.Conn.Client.Addr(), User: h.User, Begin: now}
		if slices.Contains(o.sessions.admitted, h.Conn) {
			o.hold(now, h.Conn, s, h.Conn.Cookie == 0)
		}
		o.sessionEvent(now, h.Conn, h.User, "opened")
	}
}

// age is how long ago the kernel noted at: seconds where the tap has something else to
// do, and more where the agent hung. What has no monotonic reading is measured by the
// wall clock, which may have been set meanwhile, and believed within what can be.
func age(now, at time.Time) time.Duration {
	passed := max(now.Sub(at), 0)
	if at == at.Round(0) { //nolint:staticcheck // Equal does not look at monotonic readings
		return min(passed, 2*time.Second)
	}
	return passed
}

// hold lets a session hold its grant, if there is one.
func (o *owner) hold(now time.Time, c authz.Conn, s grant.Session, untold bool) bool {
	o.sessions.last++
	s.ID = o.sessions.last
	ok := holdOwn(o.grants(), now, &s)
	if ok {
		o.sessions.open[c] = &held{Session: s, since: now, untold: untold}
		o.sessions.young = append(o.sessions.young, c)
	}
	return ok
}

// closed ends a session; heard is when its peer was heard last, zero for now.
func (o *owner) closed(now time.Time, c authz.Conn, heard time.Time, why string) {
	user := ""
	if h := o.sessions.open[c]; h != nil {
		user = h.User
		if !h.silent {
			o.release(now, h, heard)
		}
		if h.saved {
			o.keeper.DropSession(c)
		}
		delete(o.sessions.open, c)
	}
	o.sessionEvent(now, c, user, why)
}

// release lets a session hold nothing any more.
func (o *owner) release(now time.Time, h *held, heard time.Time) {
	if c, ok := o.grants().Release(now, h.Session, heard); ok {
		o.engine.Record([]grant.Change{c})
		o.change(now, c)
	}
}

func (o *owner) sessionEvent(now time.Time, c authz.Conn, user, what string) {
	if !o.hub.Watched() {
		return
	}
	o.hub.Publish(now, control.Event{
		Event: "session", Time: control.Time{Time: now}, Client: c.Client.Addr().String(), Port: c.Client.Port(),
		Server: c.Server.Addr().String(), ServerPort: c.Server.Port(), Protocol: c.Service.Protocol.String(),
		User: control.Text(user), Reason: what,
	})
}

// holdOwn lets a session hold its grant. One that was opened after the session began
// rests on somebody else's login, as after a revocation.
func holdOwn(t *grant.Table, now time.Time, s *grant.Session) bool {
	g, ok := t.Of(t.Key(s.Client))
	return ok && !olderThan(s, &g) && t.Hold(now, *s)
}

// olderThan says whether a session began before a grant, with room for rounding.
func olderThan(s *grant.Session, g *grant.Grant) bool {
	return s.Begin.Add(time.Second).Before(g.Since)
}

// woke: the machine slept, and clocks stood still: that of the gate's elements, and that
// by which the kernel counts for how long a peer was not heard.
func (o *owner) woke(now time.Time, slept time.Duration) {
	o.grants().Slept(slept)
	o.gate.Refresh()
	o.sessions.woke, o.sessions.slept = now, slept
	if slept < maxSilence {
		return // the next survey will see
	}
	for c, h := range o.sessions.open {
		if !h.silent {
			o.silent(now, c, h, slept, now.Add(-slept))
		}
	}
}

// silence is for how long a peer was not heard, of which the kernel said d at taken.
func (s *sessions) silence(taken time.Time, d time.Duration) time.Duration {
	if taken.Sub(s.woke) < d {
		d += s.slept
	}
	return d
}

// silent lets a session hold nothing whose peer was heard last at heard.
func (o *owner) silent(now time.Time, c authz.Conn, h *held, silence time.Duration, heard time.Time) {
	h.silent = true
	o.release(now, h, heard)
	o.sessionEvent(now, c, h.User, "silent: its client was not heard for "+silence.Round(time.Minute).String())
}

// survey compares the sessions with the socket tables, as they were at taken.
func (o *owner) survey(now, taken time.Time, alive []sockdiag.Session) {
	find := finder(alive)
	for c, h := range o.sessions.open {
		if h.since.After(taken) {
			continue
		}
		s, ok := find(c)
		silence := o.sessions.silence(taken, s.Silent)
		switch {
		case !ok:
			o.closed(now, c, time.Time{}, "closed: it is not in the socket tables any more")
			continue
		case silence >= maxSilence && !h.silent:
			o.silent(now, c, h, silence, taken.Add(-silence))
		case silence < maxSilence && h.silent:
			h.silent = !holdOwn(o.grants(), now, &h.Session)
		}
		o.keep(c, h)
	}
}

// hasSocket: the tap knows the connection's socket, whose cookie no other gets
// before the next boot.
func hasSocket(c authz.Conn) bool { return c.Cookie != 0 && c.Netns != 0 }

// finder finds a connection in what the socket tables hold, or the tap's own: by
// its cookie, or where the tables have another by its addresses.
func finder(alive []sockdiag.Session) func(authz.Conn) (sockdiag.Session, bool) {
	type ends struct{ local, remote netip.AddrPort }
	byCookie := make(map[uint64]sockdiag.Session, len(alive))
	byEnds := make(map[ends]sockdiag.Session)
	for _, s := range alive {
		byCookie[s.Cookie] = s
		byEnds[ends{s.Local, s.Remote}] = s
	}
	return func(c authz.Conn) (sockdiag.Session, bool) {
		s, ok := byCookie[c.Cookie]
		if ok = ok && s.Netns == c.Netns && s.Local == c.Server; ok || hasSocket(c) {
			return s, ok
		}
		s, ok = byEnds[ends{c.Server, c.Client}]
		return s, ok
	}
}

// runSurvey looks at the socket tables now and then.
func (d *daemon) runSurvey(ctx context.Context) error {
	tick := time.NewTicker(surveySoon)
	defer tick.Stop()
	last, rest := time.Now(), surveySoon
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		soon := false
		if d.owner.ask(ctx, func(now time.Time) { d.owner.save(now); soon = d.owner.surveySoon() }) != nil {
			return nil // the daemon ends
		}
		if since := time.Since(last); since < surveyEvery && (!soon || since < rest) {
			continue
		}
		last = time.Now()
		alive, err := d.tap.Alive()
		rest = min(surveyShare*time.Since(last), surveyEvery)
		if errors.Is(err, errors.ErrUnsupported) {
			continue // none is followed
		}
		if err != nil {
			d.log.Warn("the open sessions cannot be compared with the socket tables", "error", err)
			continue
		}
		if d.owner.ask(ctx, func(now time.Time) { d.owner.survey(now, last, alive) }) != nil {
			return nil
		}
	}
}

// surveySoon: there is a session that no event will tell the end of.
func (o *owner) surveySoon() bool {
	for _, h := range o.sessions.open {
		if h.untold {
			return true
		}
	}
	return false
}

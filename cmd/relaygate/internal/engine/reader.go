// Package engine joins the stages between packets and the gate: flows,
// dialogues, policy, evidence and grants. Events go in; verdicts and changes of
// grants come out as values. It does no I/O, reads no clock, takes no lock and
// belongs to one goroutine.
//
// A Reader turns events into verdicts; replay needs no more. An Engine decides
// about them.
package engine

import (
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/proxy"
	"relaygate/capture"
	"relaygate/capture/flow"
)

// dialogue reads one connection. Both slices and chunks are valid until the
// next Feed only.
type dialogue interface {
	Feed(authz.Chunk) []authz.Login
	Done() bool
	// TrustPeer lets it read announcements (proxy.Peer), Announced is whom one names.
	TrustPeer()
	Announced() netip.Addr
}

// Reader turns events into verdicts.
type Reader struct {
	flows    *flow.Table
	sessions []session // by flow.ID
	spare    spare
	held     holds
	evidence *authz.Evidence
	confirm  Confirm
	whole    Whole
	proxies  []netip.Prefix
	tls      tls
	counts   Counts
	doubts   doubts
	fed      time.Time // of the event being fed
	listener uint64    // of the same
	now      time.Time // the same, or when what waited for it came
	out      []authz.Verdict
	late     *waiting         // of files
	done     *capture.DoneSet // of files
	steered  []Steering
}

// Confirm says whether a connection may be believed, and if not why.
type Confirm func(authz.Conn, Opening) (belief authz.Belief, reason string)

// Opening is how a connection began: when, and for which listener of this host, by its
// cookie; 0 where the tap does not show that.
type Opening struct {
	Time     time.Time
	Listener uint64
}

// Whole says whether the tap has seen all that was said in a connection so far, and if
// not why.
type Whole func(authz.Conn) (ok bool, reason string)

// NewFileReader makes a Reader for capture files, of the given services by server port,
// which notes in evidence what it reads, and keeps no account of sessions. The proxies
// may announce clients. A connection of which nothing more is to be said is in done, for
// a capture.Decoder to pass over.
func NewFileReader(services map[uint16]authz.Service, proxies []netip.Prefix, evidence *authz.Evidence, done *capture.DoneSet) *Reader {
	r := newReader(flow.Config{Services: services, Done: done, Late: Lateness}, evidence)
	r.proxies = proxies
	r.IgnoreSessions()
	r.late, r.done = new(waiting), done
	return r
}

func newReader(c flow.Config, evidence *authz.Evidence) *Reader {
	return &Reader{flows: flow.New(c), held: newHolds(), doubts: newDoubts(), evidence: evidence}
}

// Feed takes one event and returns the verdicts that it brought, without secrets
// (authz.Evidence.Record) and valid until the next call, as are what Steer and Holds
// then return.
func (r *Reader) Feed(ev *capture.Event) []authz.Verdict {
	r.begin(ev.Time)
	r.listener = ev.Listener
	switch {
	case ev.Kind == capture.Plain:
		r.plain(ev)
		return r.out
	case ev.Kind == capture.Handshake:
		r.handshake(ev.Conn.Cookie)
		return r.out
	case ev.Kind == capture.Opened && !ev.Trusted:
		r.untrusted(ev)
	}
	r.tell(false)
	events := r.flows.Feed(ev)
	r.events(events)
	switch n := len(events); {
	case ev.Kind == capture.Lost:
		r.lost(ev)
	case ev.Kind == capture.Opened && (n == 0 || events[n-1].Kind != flow.Opened):
		r.steer(ev.Conn, Forget) // it is not believed, or a bound was hit
	}
	r.tell(false)
	return r.out
}

// FeedAll takes several events of a file that were decoded at one time, and returns the
// verdicts that they brought, in order and as Feed would.
func (r *Reader) FeedAll(events []capture.Event) []authz.Verdict {
	r.begin(r.now)
	for i := range events {
		ev := &events[i]
		if r.done.Changed(ev.Segment.Hash) && r.flows.PassesOver(ev) {
			continue
		}
		r.now = ev.Time
		r.tell(false)
		if told := r.flows.Feed(ev); len(told) > 0 {
			r.events(told)
		}
	}
	r.tell(false)
	return r.out
}

// begin forgets what the last call returned.
func (r *Reader) begin(now time.Time) {
	r.now = now
	r.out, r.steered = r.out[:0], r.steered[:0]
	r.forget()
	r.held.changes, r.tls.covered = r.held.changes[:0], r.tls.covered[:0]
}

// Counts returns the totals; Flows those of the flow table.
func (r *Reader) Counts() Counts    { return r.counts }
func (r *Reader) Flows() flow.Stats { return r.flows.Stats() }

// events takes what became of flows.
func (r *Reader) events(events []flow.Event) {
	r.fed = r.now
	for i := range events {
		e := &events[i]
		if e.Came != 0 {
			r.now = time.Unix(0, e.Came).UTC()
		}
		switch e.Kind {
		case flow.Opened:
			r.open(e.ID)
		case flow.Data:
			r.data(e.ID, e.Chunk)
		case flow.Tainted:
			r.tainted(e.ID, e.Reason, e.Past)
		case flow.Closed:
			r.closed(e.ID)
		}
		r.now = r.fed
	}
}

func (r *Reader) open(id flow.ID) {
	for int(id) >= len(r.sessions) {
		r.sessions = append(r.sessions, session{})
	}
	s := &r.sessions[id]
	if s.waits > 0 {
		r.release(id)
	}
	*s = session{}
	conn, origin := r.flows.Conn(id)
	s.conn, s.origin, s.opening = *conn, origin, Opening{r.now, r.listener}
	s.dialogue = r.spare.take(s.conn.Service)
	if r.MayAnnounce(s.conn.Client.Addr()) {
		s.peer = newPeer()
		s.dialogue.TrustPeer()
	}
	if r.follows(s) {
		r.tls.byCookie[s.conn.Cookie] = id
	}
}

// session is the one that is read in a flow, nil if none is.
func (r *Reader) session(id flow.ID) *session {
	if int(id) >= len(r.sessions) || r.sessions[id].dialogue == nil {
		return nil
	}
	return &r.sessions[id]
}

// data takes what packets showed of a connection.
func (r *Reader) data(id flow.ID, c authz.Chunk) {
	s := r.session(id)
	if s == nil || s.phase >= noTLS { // what the segment brought that began TLS
		return
	}
	if s.phase == shaking {
		r.shake(id, s, c)
		return
	}
	r.ask(s)
	if s.peer != nil {
		begun, rest, reason := s.peer.header(s.conn.Service.Protocol, c)
		if reason != "" {
			r.doubt(id, reason)
			return
		}
		if len(begun) > 0 {
			r.speak(id, s, authz.Chunk{Dir: c.Dir, Bytes: begun})
		}
		if c = rest; len(c.Bytes) == 0 && c.Cut == 0 || s.dialogue == nil {
			return
		}
	}
	if c.Dir == authz.FromClient && !s.spoken {
		s.spoken, s.announces = true, s.peer == nil && proxy.Begins(c.Bytes)
	}
	r.speak(id, s, c)
}

// speak feeds the dialogue of a connection.
func (r *Reader) speak(id flow.ID, s *session, c authz.Chunk) {
	logins := s.dialogue.Feed(c)
	if s.peer != nil {
		if reason := s.peer.listen(s.dialogue); reason != "" {
			r.doubt(id, reason)
			return
		}
	}
	if len(logins) == 0 {
		return
	}
	for i := range logins {
		l := &logins[i]
		if l.Result == authz.Encrypted && r.follows(s) {
			r.encrypted(id, c, l.Reason)
			return
		}
		r.login(id, s, l)
	}
	switch {
	case !s.dialogue.Done():
	case logins[len(logins)-1].Result == authz.Success:
		r.hold(id)
	default:
		r.finish(id)
	}
}

// finish ends the reading of a connection.
func (r *Reader) finish(id flow.ID) {
	r.flows.Forget(id)
	r.steer(r.sessions[id].conn, Done)
	r.drop(id)
}

// tainted takes a flow that the flow table does not believe. Without a session
// its last verdict has been told, or waits.
func (r *Reader) tainted(id flow.ID, reason string, past bool) {
	s := r.session(id)
	if s == nil {
		if !past {
			return
		}
		if v := r.release(id); v != nil {
			v.Login = doubted(&v.Login, reason)
		}
		return
	}
	r.verdict(s, &authz.Login{Result: authz.Tainted, Reason: reason}, reason)
	r.steer(s.conn, Done)
	r.drop(id)
}

// closed ends a flow.
func (r *Reader) closed(id flow.ID) {
	if s := r.session(id); s != nil && s.phase != inClear {
		r.unread(s)
	}
	r.drop(id)
	r.held.close(id, r.now)
}

func (r *Reader) drop(id flow.ID) {
	if int(id) < len(r.sessions) {
		s := &r.sessions[id]
		delete(r.tls.byCookie, s.conn.Cookie)
		r.spare.keep(s.conn.Service.Protocol, s.dialogue)
		*s = session{waits: s.waits} // up to the next in its slot
	}
}

// Flush ends the input: what can no longer be mended is told.
func (r *Reader) Flush(now time.Time) []authz.Verdict {
	r.begin(now)
	r.events(r.flows.Flush(now))
	r.tell(true)
	return r.out
}

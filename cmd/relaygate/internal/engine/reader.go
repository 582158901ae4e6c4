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
	"relaygate/authz/imap"
	"relaygate/authz/pop3"
	"relaygate/capture"
	"relaygate/capture/flow"
)

// dialogue reads one connection. Both slices and chunks are valid until the
// next Feed only.
type dialogue interface {
	Feed(authz.Chunk) []authz.Login
	Done() bool
}

// Verdict is what a connection showed, without secrets (authz.Evidence.Mask).
type Verdict struct {
	authz.Verdict
	// Final verdicts end the reading of their connection.
	Final bool
}

// Reader turns events into verdicts.
type Reader struct {
	flows    *flow.Table
	sessions []session // by flow.ID
	held     holds
	evidence *authz.Evidence
	confirm  Confirm
	counts   Counts
	doubts   doubts
	out      []Verdict
}

// Confirm says whether a connection that was only seen on the wire may be
// believed, and if not why.
type Confirm func(authz.Conn) (ok bool, reason string)

// Counts are running totals since the start.
type Counts struct {
	Logins, Failures, Tainted, Encrypted uint64
	// Untrusted counts connections to listeners that are not believed.
	Untrusted uint64
}

type session struct {
	dialogue dialogue
	conn     authz.Conn
	origin   authz.Origin
	// confirmed: Confirm said yes. doubt is why it said no.
	confirmed bool
	doubt     string
}

// NewReader makes a Reader for the given services by server port, which notes
// in evidence what it reads.
func NewReader(services map[uint16]authz.Service, evidence *authz.Evidence) *Reader {
	return &Reader{flows: flow.New(flow.Config{Services: services}), held: newHolds(), doubts: newDoubts(), evidence: evidence}
}

// Feed takes one event and returns the verdicts that it brought, valid until
// the next call.
func (r *Reader) Feed(ev *capture.Event) []Verdict {
	r.out = r.out[:0]
	if ev.Kind == capture.Opened && !ev.Trusted {
		r.untrusted(ev)
	}
	for _, e := range r.flows.Feed(ev) {
		r.event(&e)
	}
	return r.out
}

// Counts returns the totals; Flows those of the flow table.
func (r *Reader) Counts() Counts    { return r.counts }
func (r *Reader) Flows() flow.Stats { return r.flows.Stats() }

func (r *Reader) event(e *flow.Event) {
	switch e.Kind {
	case flow.Opened:
		r.open(e)
	case flow.Data:
		r.data(e)
	case flow.Tainted:
		r.taint(e)
	case flow.Closed:
		r.drop(e.ID)
		r.held.close(e.ID)
	}
}

func (r *Reader) open(e *flow.Event) {
	for int(e.ID) >= len(r.sessions) {
		r.sessions = append(r.sessions, session{})
	}
	r.sessions[e.ID] = session{dialogue: newDialogue(e.Conn.Service), conn: e.Conn, origin: e.Origin}
}

// newDialogue makes the reader of one connection. Dialogues are not reused: a
// fresh one holds nothing of another client.
func newDialogue(s authz.Service) dialogue {
	switch {
	case s.ImplicitTLS:
		return &tlsDialogue{}
	case s.Protocol == authz.POP3:
		return pop3.New()
	case s.Protocol == authz.IMAP:
		return imap.New()
	}
	return nil
}

func (r *Reader) data(e *flow.Event) {
	if int(e.ID) >= len(r.sessions) || r.sessions[e.ID].dialogue == nil {
		return
	}
	s := &r.sessions[e.ID]
	r.ask(s)
	logins := s.dialogue.Feed(e.Chunk)
	done := s.dialogue.Done()
	for i, l := range logins {
		why := l.Reason
		if l.Result == authz.Success && !s.confirmed {
			why = Unconfirmed
			l = authz.Login{Result: authz.Tainted, Mechanism: l.Mechanism, User: l.User, Reason: s.doubt}
		}
		if l.Result == authz.Success {
			r.held.open(e.ID, s.conn.Client.Addr())
		}
		r.add(Verdict{
			Verdict: authz.Verdict{Time: e.Chunk.Time, Conn: s.conn, Login: l, TLS: l.Result == authz.Encrypted, Origin: s.origin},
			Final:   done && i == len(logins)-1,
		}, why)
	}
	if done {
		r.flows.Forget(e.ID)
		r.drop(e.ID)
	}
}

// ask confirms a connection with its first bytes, and again with later ones if
// it must: a client that is quick has left before its login has been read.
func (r *Reader) ask(s *session) {
	switch {
	case s.confirmed:
	case r.confirm == nil:
		s.confirmed = true
	default:
		s.confirmed, s.doubt = r.confirm(s.conn)
	}
}

// taint ends a flow that the flow table does not believe. A flow can be tainted
// without ever having been opened.
func (r *Reader) taint(e *flow.Event) {
	r.add(Verdict{
		Verdict: authz.Verdict{
			Time: e.Time, Conn: e.Conn, Origin: e.Origin,
			Login: authz.Login{Result: authz.Tainted, Reason: e.Reason},
		},
		Final: true,
	}, e.Reason)
	r.drop(e.ID)
}

func (r *Reader) drop(id flow.ID) {
	if int(id) < len(r.sessions) {
		r.sessions[id] = session{}
	}
}

// untrusted notes a connection to a listener that is not believed.
func (r *Reader) untrusted(ev *capture.Event) {
	r.counts.Untrusted++
	client := ev.Conn.Client.Addr()
	if !client.IsValid() {
		return
	}
	r.evidence.Add(authz.Event{
		Kind: authz.EventUntrusted, Time: ev.Time, Prefix: netip.PrefixFrom(client, client.BitLen()),
		Conn: ev.Conn, Reason: ev.Reason,
	})
}

// add counts and notes a verdict, a tainted one by why. From here on it holds
// no secret.
func (r *Reader) add(v Verdict, why string) {
	switch v.Result {
	case authz.Success:
		r.counts.Logins++
	case authz.Failure:
		r.counts.Failures++
	case authz.Encrypted:
		r.counts.Encrypted++
	default:
		r.counts.Tainted++
		r.doubts.add(why)
	}
	r.evidence.Record(v.Verdict)
	v.Verdict = r.evidence.Mask(v.Verdict)
	r.out = append(r.out, v)
}

// Flush ends the input: what can no longer be mended is told.
func (r *Reader) Flush(now time.Time) []Verdict {
	r.out = r.out[:0]
	for _, e := range r.flows.Flush(now) {
		r.event(&e)
	}
	return r.out
}

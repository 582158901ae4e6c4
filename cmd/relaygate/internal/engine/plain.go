package engine

import (
	"cmp"
	"time"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/capture/flow"
)

// tls is how a Reader follows connections into TLS: by what the server's TLS
// library read and wrote. A fresh dialogue reads that; nothing that was said in
// clear text counts behind it.
type tls struct {
	// explain says why the plaintext of a connection is not seen. It is nil without a tap
	// of TLS libraries: then TLS ends the reading.
	explain func(authz.Conn) string
	// byCookie are the live connections that are read. The flow table bounds
	// them.
	byCookie map[uint64]flow.ID
	// awaited are connections whose handshake was seen, in its order; those
	// from fresh on have no deadline yet.
	awaited []await
	fresh   int
	covered []Coverage
}

// Coverage says of one connection in TLS whether its plaintext was seen in time.
type Coverage struct {
	Conn authz.Conn
	Seen bool
}

// await is a connection whose plaintext should come.
type await struct {
	cookie   uint64
	deadline time.Time
}

// TLSCounts are running totals of connections in TLS, while their plaintext is
// tapped.
type TLSCounts struct {
	// Handshakes are connections of which a ServerHello was seen. Seen are
	// those of them whose plaintext was; Unseen those of which none came
	// within patience, or until they closed.
	Handshakes, Seen, Unseen uint64
	// Refused counts calls of processes that may not speak for the connection.
	Refused uint64
}

// patience is how long the plaintext of a connection may take after its
// handshake before it is told to be unseen. It is measured from the next call of
// Unread on.
const patience = 5 * time.Second

// maxAwaited bounds the list of those that are waited for. Whoever finds no room
// is told about when the connection closes.
const maxAwaited = 1 << 16

// The reasons to taint a connection in TLS.
const (
	reasonEarlyData = "early data, which anybody on the path can send again (RFC 8446 §8)"
	reasonPlainCut  = "client bytes of a TLS record were not captured whole"
	reasonPlainLost = "the tap lost plaintext of the connection"
	reasonRefused   = "what the server's process said before was not believed"
	reasonTooEarly  = "plaintext of TLS before TLS began"
	reasonTwice     = "TLS inside of TLS"
)

// FollowTLS turns the reading of plaintext on. explain says in words why that of a
// connection is not seen, "" if it does not know.
func (r *Reader) FollowTLS(explain func(authz.Conn) string) {
	r.tls.explain, r.tls.byCookie = explain, make(map[uint64]flow.ID)
}

// follows reports whether a connection is followed into TLS.
func (r *Reader) follows(s *session) bool { return r.tls.explain != nil && s.conn.Cookie != 0 }

// encrypted takes a connection into TLS, or to its threshold.
func (r *Reader) encrypted(id flow.ID, c authz.Chunk, began string) {
	s := &r.sessions[id]
	if s.phase == inTLS {
		r.doubt(id, reasonTwice)
		return
	}
	startTLS := s.phase == startingTLS
	if !startTLS {
		s.began = began
	}
	if c.Dir == authz.FromServer {
		// STARTTLS was accepted. Whatever comes from the client now and does not
		// begin TLS was injected: some servers would run it behind the handshake.
		s.phase, s.dialogue = startingTLS, &tlsDialogue{}
		return
	}
	s.phase, s.hello = shaking, &hellos{startTLS: startTLS}
	s.hello.client.begin(c.Bytes)
}

// shake takes what packets show of a handshake.
func (r *Reader) shake(id flow.ID, s *session, c authz.Chunk) {
	if c.Dir == authz.FromClient {
		s.hello.client.add(c.Bytes)
		return
	}
	found, possible := s.hello.server.read(c.Bytes)
	client := &s.hello.client
	switch {
	case found && client.early:
		r.doubt(id, reasonEarlyData)
		return
	case found && client.whole && s.handshake: // the kernel saw it too, or a later one would count
		s.phase, s.dialogue = inTLS, clearDialogue(s.conn.Service.Protocol, s.hello.startTLS)
		if s.peer != nil {
			s.peer.encrypted(s.dialogue)
		}
	case found, !possible, c.Cut > 0:
		s.phase = noTLS
	default:
		return
	}
	s.hello = nil
	r.flows.Forget(id)
	course := Done
	if s.phase == inTLS {
		course = Plaintext
	}
	r.steer(s.conn, course)
	r.await(s)
}

// handshake takes note of a ServerHello.
func (r *Reader) handshake(cookie uint64) {
	if id, ok := r.tls.byCookie[cookie]; ok {
		r.sessions[id].handshake = true
	}
}

// await expects plaintext of a connection that is in TLS.
func (r *Reader) await(s *session) {
	if s.phase != inTLS {
		return
	}
	r.counts.TLS.Handshakes++
	if len(r.tls.awaited) < maxAwaited {
		r.tls.awaited = append(r.tls.awaited, await{cookie: s.conn.Cookie})
	}
}

// plain takes what a TLS library read or wrote.
func (r *Reader) plain(ev *capture.Event) {
	id, ok := r.tls.byCookie[ev.Conn.Cookie]
	if !ok {
		return
	}
	s, p := &r.sessions[id], &ev.Plain
	if !ev.Trusted {
		r.counts.TLS.Refused++
		// A stranger says nothing about the connection, though any can claim to
		// speak for it. So it must not taint either.
		if !p.Stranger || p.Process == s.speaker && p.Process != 0 {
			r.doubt(id, cmp.Or(ev.Reason, reasonPlainLost))
			return
		}
		s.refused = p.Process
		return
	}
	if p.Process == s.refused && p.Process != 0 {
		r.doubt(id, reasonRefused)
		return
	}
	s.speaker = p.Process
	fromClient := p.Dir == authz.FromClient
	if s.phase != inTLS {
		r.doubt(id, reasonTooEarly)
		return
	}
	r.seen(s)
	switch {
	case p.Early && fromClient:
		// What the server writes early answers nobody yet. What the client
		// sends early is not known to come from whom it names: HAProxy turns
		// off OpenSSL's protection against replay.
		r.doubt(id, reasonEarlyData)
		return
	case p.Missing > 0 && fromClient:
		r.doubt(id, reasonPlainCut)
		return
	}
	r.ask(s)
	r.speak(id, s, authz.Chunk{Dir: p.Dir, Bytes: p.Bytes, Cut: p.Missing, Whole: fromClient})
}

// seen notes that plaintext of a connection came.
func (r *Reader) seen(s *session) {
	if s.seen {
		return
	}
	s.seen = true
	r.counts.TLS.Seen++
	if s.unseen { // a slow client
		r.counts.TLS.Unseen--
		return
	}
	r.tls.covered = append(r.tls.covered, Coverage{Conn: s.conn, Seen: true})
}

// unseen notes that none came of a connection that shook hands.
func (r *Reader) unseen(s *session) {
	if s.seen || s.unseen || s.phase != inTLS {
		return
	}
	s.unseen = true
	r.counts.TLS.Unseen++
	r.tls.covered = append(r.tls.covered, Coverage{Conn: s.conn})
}

// Covered returns of which connections in TLS the last Feed or Unread saw
// plaintext for the first time, or gave it up. Each is told once.
func (r *Reader) Covered() []Coverage { return r.tls.covered }

// Conn is the live connection of a cookie, as the kernel announced it, while it
// is read; false if it is not.
func (r *Reader) Conn(cookie uint64) (authz.Conn, bool) {
	id, ok := r.tls.byCookie[cookie]
	if !ok {
		return authz.Conn{}, false
	}
	return r.sessions[id].conn, true
}

// lost taints connections in TLS, of which the flow table knows no more: the one
// of which the tap lost something, or all if it cannot tell.
func (r *Reader) lost(ev *capture.Event) {
	reason := cmp.Or(ev.Reason, reasonPlainLost)
	if id, ok := r.tls.byCookie[ev.Conn.Cookie]; ok {
		r.unseen(&r.sessions[id])
		r.doubt(id, reason)
		return
	}
	if ev.Conn.Cookie != 0 {
		return
	}
	for _, id := range r.tls.byCookie {
		if p := r.sessions[id].phase; p == inTLS || p == shaking {
			r.unseen(&r.sessions[id])
			r.doubt(id, reason)
		}
	}
}

// Unread returns verdicts about the connections whose plaintext did not come in
// time, valid until the next call. More may follow: the client may be slow.
func (r *Reader) Unread(now time.Time) []authz.Verdict {
	r.begin(now)
	t := &r.tls
	n := 0
	for ; n < t.fresh && !t.awaited[n].deadline.After(now); n++ {
		if id, ok := t.byCookie[t.awaited[n].cookie]; ok {
			r.unread(&r.sessions[id])
		}
	}
	t.awaited = t.awaited[:copy(t.awaited, t.awaited[n:])]
	for i := t.fresh - n; i < len(t.awaited); i++ {
		t.awaited[i].deadline = now.Add(patience)
	}
	t.fresh = len(t.awaited)
	return r.out
}

// unread tells that nothing was seen of a connection in TLS, once.
func (r *Reader) unread(s *session) {
	if s.seen || s.told {
		return
	}
	s.told = true
	reason := s.began
	switch {
	case s.phase < shaking:
		reason += ", and TLS never began"
	case s.phase != inTLS:
		reason += ", and no handshake was seen"
	default:
		r.unseen(s)
		reason += ", and its plaintext was not seen"
		if why := r.tls.explain(s.conn); why != "" {
			reason += ": " + why
		}
	}
	r.verdict(s, &authz.Login{Result: authz.Encrypted, Reason: reason}, "")
}

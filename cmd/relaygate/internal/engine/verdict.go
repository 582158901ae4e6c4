package engine

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/authz/proxy"
	"relaygate/capture"
	"relaygate/capture/flow"
)

// login makes a verdict of what a dialogue said.
func (r *Reader) login(id flow.ID, s *session, l *authz.Login) {
	why := l.Reason
	if l.Result == authz.Success && s.belief == authz.Believed && r.whole != nil {
		if ok, doubt := r.whole(s.conn); !ok {
			s.belief, s.doubt = authz.Undecided, doubt
		}
	}
	switch {
	case l.Result == authz.Tainted && s.announces:
		l.Reason, why = reasonNoProxy, reasonNoProxy // which the dialogue read as a command
	case l.Result != authz.Success:
	case s.belief != authz.Believed:
		*l, why = doubted(l, s.doubt), unconfirmed
	case s.peer != nil && !s.peer.taken():
		*l, why = doubted(l, proxy.ReasonNotTaken), proxy.ReasonNotTaken
	}
	v := r.verdict(s, l, why)
	if l.Result == authz.Success {
		r.held.open(id, r.now, v)
	}
}

// doubted is a login that is not to be believed.
func doubted(l *authz.Login, because string) authz.Login {
	return authz.Login{Result: authz.Tainted, Mechanism: l.Mechanism, User: l.User, Reason: because}
}

// doubt ends a session that is not to be believed.
func (r *Reader) doubt(id flow.ID, reason string) {
	r.verdict(&r.sessions[id], &authz.Login{Result: authz.Tainted, Reason: reason}, reason)
	r.finish(id)
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

// verdict tells what l says about the client of a connection: the one that a
// trusted proxy announced, if one did. It counts and notes it, a tainted one by
// why. What it returns holds no secret, and is valid until the next verdict.
func (r *Reader) verdict(s *session, l *authz.Login, why string) *authz.Verdict {
	var v *authz.Verdict
	if r.late != nil {
		v = r.late.place()
	} else {
		r.out = append(r.out, authz.Verdict{})
		v = &r.out[len(r.out)-1]
	}
	v.Time, v.Origin = r.now, s.origin
	v.Conn = s.conn
	v.Login = *l
	v.TLS = s.phase == inTLS || l.Result == authz.Encrypted
	if s.peer != nil && s.peer.client.IsValid() {
		v.Proxy = s.conn.Client.Addr()
		v.Conn.Client = s.peer.client
	}
	if r.late == nil {
		r.note(v, why)
	}
	return v
}

// note counts and notes a verdict.
func (r *Reader) note(v *authz.Verdict, why string) {
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
	r.evidence.Record(v)
}

package engine

import (
	"net/netip"
	"slices"

	"relaygate/authz"
	"relaygate/authz/imap"
	"relaygate/authz/pop3"
)

// phase is how far a connection is on its way into TLS.
type phase uint8

const (
	inClear phase = iota
	// startingTLS: the server accepted STARTTLS, and the client must begin TLS.
	startingTLS
	// shaking: the client began TLS, and the server must answer that.
	shaking
	// noTLS: it did not.
	noTLS
	// inTLS: packets show nothing; the TLS library may.
	inTLS
)

// session is one connection that is read.
type session struct {
	dialogue dialogue
	conn     authz.Conn // as the tap saw it
	origin   authz.Origin
	opening  Opening
	// belief is what Confirm said, doubt why it is not Believed.
	belief authz.Belief
	doubt  string
	// peer is what a trusted proxy announced, nil of all others.
	peer *peer
	// spoken: the client said something; announces: that was like a PROXY header,
	// though it is no such proxy.
	spoken, announces bool

	// waits is the place of its verdict among those that wait, plus one; 0 for none.
	waits int

	phase phase
	// Of TLS: a ServerHello was seen; plaintext was; it was given up; that was
	// told.
	handshake, seen, unseen, told bool
	// speaker is the process whose plaintext was believed last, refused the one
	// whose was not; 0 is none.
	speaker, refused uint32
	// began says how TLS began, hello how far.
	began string
	hello *hellos
}

// clearDialogue reads the protocol itself. Behind STARTTLS no greeting comes.
func clearDialogue(p authz.Protocol, startTLS bool) dialogue {
	switch {
	case p == authz.POP3 && startTLS:
		return pop3.NewAfterTLS()
	case p == authz.POP3:
		return pop3.New()
	case startTLS:
		return imap.NewAfterTLS()
	}
	return imap.New()
}

// ask confirms a connection with its first bytes, and again with later ones until that is
// decided: a client that is quick has left before its login has been read.
func (r *Reader) ask(s *session) {
	switch {
	case r.confirm == nil:
		s.belief = authz.Believed
	case s.belief == authz.Undecided:
		s.belief, s.doubt = r.confirm(s.conn, s.opening)
	}
}

// MayAnnounce says whether a peer is a trusted proxy, which may announce its clients.
func (r *Reader) MayAnnounce(peer netip.Addr) bool {
	return slices.ContainsFunc(r.proxies, func(p netip.Prefix) bool { return p.Contains(peer) })
}

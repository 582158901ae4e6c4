package engine

import (
	"time"

	"relaygate/authz"
	"relaygate/capture/flow"
)

// holds are the sessions that are open after a login. The flow table bounds
// them.
type holds struct {
	conns   map[flow.ID]authz.Conn // nil: no account is kept
	changes []Hold
}

// Hold is a session that began with a proved login: it opened, or it closed. It
// is open until the kernel closes the connection, in TLS too.
type Hold struct {
	Open bool
	// Time is that of the login, or of the close.
	Time time.Time
	// Conn is the connection of the verdict: its client is the one that a
	// trusted proxy announced, if one did. Conn.Cookie names it on a live tap.
	Conn authz.Conn
	// User is who logged in, where it opened.
	User string
}

func newHolds() holds { return holds{conns: make(map[flow.ID]authz.Conn)} }

// IgnoreSessions makes the Reader keep no account of sessions: Holds stays empty.
func (r *Reader) IgnoreSessions() { r.held = holds{} }

func (h *holds) open(id flow.ID, now time.Time, v *authz.Verdict) {
	if h.conns == nil {
		return
	}
	h.close(id, now)
	h.conns[id] = v.Conn
	h.changes = append(h.changes, Hold{Open: true, Time: now, Conn: v.Conn, User: v.User})
}

func (h *holds) close(id flow.ID, now time.Time) {
	c, ok := h.conns[id]
	if !ok {
		return
	}
	delete(h.conns, id)
	h.changes = append(h.changes, Hold{Time: now, Conn: c})
}

// Holds returns the sessions that opened and closed with the last Feed, in
// order. Each that opened is told closed exactly once. A session is told opened
// whether or not its login is granted.
func (r *Reader) Holds() []Hold { return r.held.changes }

package authz

import (
	"net/netip"
	"time"
	"unique"
)

// note is an Event as a record keeps it: less than half the size, as many notes
// share their texts and servers.
type note struct {
	time, last, until int64 // Unix time in nanoseconds, 0 for none
	client            netip.AddrPort
	// server is the connection without its client and cookie.
	server                unique.Handle[Conn]
	mechanism, answer, by unique.Handle[string]
	user, reason          string // shared by few
	count                 uint32
	kind                  EventKind
	tls, open             bool
}

// noteOf keeps all of an event but its prefix and its socket's cookie.
func noteOf(e *Event) note {
	server := e.Conn
	server.Client, server.Cookie = netip.AddrPort{}, 0
	return note{
		time: nanos(e.Time), last: nanos(e.Last), until: nanos(e.Until),
		client: e.Conn.Client, server: unique.Make(server),
		mechanism: unique.Make(e.Mechanism), answer: unique.Make(e.Answer), by: unique.Make(e.By),
		user: e.User, reason: e.Reason,
		count: uint32(min(max(e.Count, 1), 1<<32-1)), kind: e.Kind, tls: e.TLS, open: e.Open,
	}
}

func (n *note) event(p netip.Prefix) Event {
	e := Event{
		Kind: n.kind, Time: fromNanos(n.time), Last: fromNanos(n.last), Until: fromNanos(n.until), Prefix: p,
		Conn: n.server.Value(), Count: int(n.count), TLS: n.tls, Open: n.open,
		User: n.user, Mechanism: n.mechanism.Value(), Answer: n.answer.Value(), By: n.by.Value(), Reason: n.reason,
	}
	e.Conn.Client = n.client
	return e
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// same reports whether two notes differ in nothing but when and where from.
func (n *note) same(o *note) bool {
	return n.kind == o.kind && n.user == o.user && n.mechanism == o.mechanism && n.tls == o.tls &&
		n.reason == o.reason && n.by == o.by && n.server == o.server
}

// repeat counts o into n.
func (n *note) repeat(o *note) {
	n.count += min(o.count, 1<<32-1-n.count)
	n.last, n.client, n.answer, n.until, n.open = o.last, o.client, o.answer, o.until, o.open
}

// turn reports whether the event opens or closes a grant.
func (n *note) turn() bool { return n.kind.concernsGrant() && n.kind != EventRenewed }

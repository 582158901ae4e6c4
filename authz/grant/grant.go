// Package grant holds the table of who may relay now: addresses that earned it
// by a login, and those that the administrator named.
//
// The table is the truth; kernel sets and files are its projections. It is
// fail-closed by construction: nothing enters but through the policy, a grant
// without a deadline exists only for an always rule, and a renewal is never
// shorter than what it renews. Precedence: denials, never rules, always rules,
// what the administrator granted, logins. While the table is paused only always
// rules are open.
//
// The kernel's elements end by themselves. What the table promises is told to
// the kernel lazily (Change.Arm), and never more than is promised: with nobody
// to renew it an element ends early, not late.
//
// Time is an argument everywhere. Pass what time.Now returns, with its
// monotonic reading: then a step of the wall clock neither lengthens nor
// shortens a grant, and is only seen in the times that are shown. Times without
// a monotonic reading (from a file) work too, by their wall clock.
//
// A Table is not safe for concurrent use; what it returns is a copy that stays
// as it is.
package grant

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// Source says what a grant rests on.
type Source uint8

const (
	// Login: somebody logged in from the address.
	Login Source = iota + 1
	// Always: the configuration says so; there is no deadline.
	Always
	// Manual: the administrator granted it while the program ran.
	Manual
	// Import: it was found in the kernel at the start, without a user.
	Import
)

var sourceWords = []string{Login: "login", Always: "always", Manual: "manual", Import: "import"}

func (s Source) String() string { return authz.Word(sourceWords, s) }

// Grant is one prefix that may relay.
type Grant struct {
	// Prefix is a single address, but for always rules, manual grants and
	// where IPv6Prefix is 64.
	Prefix netip.Prefix
	// Since is when it was opened, Expires when it closes: the zero Time means
	// never, with Source Always only.
	// While sessions are open, Expires is when it would close if they ended
	// now.
	Since, Expires time.Time
	Source         Source
	// Sessions counts the open sessions that hold it.
	Sessions int
	// Users logged in from here within one lifetime, newest first: those whose
	// names are known (Config.MaxDetails).
	Users []User
	// Logins counts the logins since Since, as far as they were kept.
	Logins int
	// By and Note are the administrator's who granted it, else "".
	By, Note string
	// Conn, Protocol, Mechanism, TLS and Answer are the evidence: those of the
	// last login. They are zero where there was none.
	Conn      authz.Conn
	Protocol  authz.Protocol
	Mechanism string
	TLS       bool
	// Answer is the server's positive answer without its tag (raw text).
	Answer string
}

// User is somebody who logged in from a granted address.
type User struct {
	// Name is raw text, cut to authz.UserLimit bytes; "" where the mechanism shows
	// no name.
	Name      string
	Seen      time.Time
	Protocol  authz.Protocol
	Mechanism string
}

func limit(user string) string { return user[:min(len(user), authz.UserLimit)] }

// Kind says what happened to a grant.
type Kind uint8

const (
	// Granted: the prefix was closed and is open now.
	Granted Kind = iota + 1
	// Renewed: it was open and stays open until Grant.Expires.
	Renewed
	// Expired: its time ran out.
	Expired
	// Revoked: it was closed before its time.
	Revoked
	// Refused: a proved login, or the administrator, did not open or renew it.
	// Grant is what still stands, or has only its Prefix, and a zero Source,
	// where nothing does.
	Refused
	// Rearmed: nothing changed but what the kernel must be told. People need not
	// be told.
	Rearmed
	// Denied: nothing in Grant.Prefix is granted until Grant.Expires (zero: for
	// good); Undenied: that has ended.
	Denied
	Undenied
	// Paused: nothing is granted until Resumed. Both have no Grant.
	Paused
	Resumed
)

var kindWords = []string{
	Granted: "granted", Renewed: "renewed", Expired: "expired", Revoked: "revoked", Refused: "refused", Rearmed: "rearmed",
	Denied: "denied", Undenied: "undenied", Paused: "paused", Resumed: "resumed",
}

func (k Kind) String() string { return authz.Word(kindWords, k) }

// Change is one thing that happened to the table.
type Change struct {
	Kind  Kind
	Time  time.Time
	Grant Grant
	// Reason says why, in words, safe to print; it completes "192.0.2.7: …".
	Reason string
	// Cause is the login that was granted, renewed or refused; nil where no
	// login caused the change. Its Answer is that of authz.SafeAnswer.
	Cause *authz.Verdict
	// By names the administrator who caused it, else "".
	By string
	// Arm says that the kernel must be told Grant.Expires now. A renewal that
	// adds little is told later, as a Rearmed change: if nobody is there to tell
	// it, the element ends up to an eighth of the lifetime early, never late.
	Arm bool
	// Static says that Table.Static changed, once for all changes of a moment.
	Static bool
	// Rebuild says that more changed than is told one by one: the gate must be
	// written anew from Table.Project. Closed is what of the rest was revoked.
	Rebuild bool
	Closed  []netip.Prefix
}

// maxChanges bounds what one call tells one by one.
const maxChanges = 1 << 14

// tally collects the changes of one call, within the bound.
type tally struct {
	changes []Change
	rest    int
	closed  []netip.Prefix // of the rest
}

func (l *tally) full() bool { return len(l.changes) >= maxChanges }

// add takes a change, or only counts it; change is not asked then.
func (l *tally) add(change func() Change) {
	if l.full() {
		l.rest++
		return
	}
	l.changes = append(l.changes, change())
}

// revoke takes the change that a prefix is revoked, or only the prefix.
func (l *tally) revoke(p netip.Prefix, change func() Change) {
	if l.full() {
		l.closed = append(l.closed, p)
	}
	l.add(change)
}

// sorted returns the changes by prefix; the last one tells of the rest.
func (l *tally) sorted() []Change {
	slices.SortFunc(l.changes, func(a, b Change) int { return a.Grant.Prefix.Compare(b.Grant.Prefix) })
	if l.rest > 0 {
		last := &l.changes[len(l.changes)-1]
		last.Rebuild, last.Closed = true, l.closed
		last.Reason += fmt.Sprintf(" (and so were %d more)", l.rest)
	}
	return l.changes
}

// Event is the change as the journal keeps it; its Kind is 0 for what is not
// kept.
func (c Change) Event() authz.Event {
	e := authz.Event{
		Kind:   eventKinds[c.Kind],
		Time:   c.Time,
		Prefix: c.Grant.Prefix,
		Until:  c.Grant.Expires,
		Open:   c.Grant.Source == Always && (c.Kind == Granted || c.Kind == Renewed),
		Reason: c.Reason,
		By:     c.By,
	}
	switch {
	case c.Cause != nil:
		v := c.Cause
		e.Conn, e.Mechanism, e.TLS, e.Answer, e.User = v.Conn, v.Mechanism, v.TLS, v.Answer, limit(v.User)
	case c.Grant.Logins > 0:
		g := &c.Grant
		e.Conn, e.Mechanism, e.TLS, e.Answer = g.Conn, g.Mechanism, g.TLS, g.Answer
		if len(g.Users) > 0 {
			e.User = g.Users[0].Name
		}
	}
	return e
}

var eventKinds = map[Kind]authz.EventKind{
	Granted: authz.EventGranted,
	Renewed: authz.EventRenewed,
	Expired: authz.EventExpired,
	Revoked: authz.EventRevoked,
	Refused: authz.EventRefused,

	Denied:   authz.EventDenied,
	Undenied: authz.EventUndenied,
	Paused:   authz.EventPaused,
	Resumed:  authz.EventResumed,
}

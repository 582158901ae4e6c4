package authz

import (
	"net/netip"
	"strings"
	"time"
)

// EventKind says what the journal notes about an address.
type EventKind uint8

const (
	// EventLogin: a login was proved.
	EventLogin EventKind = iota + 1
	// EventFailure: the server refused a login.
	EventFailure
	// EventTainted: a connection was in doubt and not believed.
	EventTainted
	// EventEncrypted: a connection went on in TLS, where packets show nothing.
	EventEncrypted
	// EventUntrusted: the connection was to a listener that is not believed.
	EventUntrusted
	// EventRefused: a proved login granted nothing.
	EventRefused
	// EventGranted, EventRenewed, EventExpired, EventRevoked: the address's
	// grant opened, was extended, ran out, or was closed before its time.
	EventGranted
	EventRenewed
	EventExpired
	EventRevoked
	// EventDenied, EventUndenied: the address was denied while running, and the
	// denial ended.
	EventDenied
	EventUndenied
	// EventPaused, EventResumed concern every address; they have no prefix.
	EventPaused
	EventResumed
	// EventBraked: the gate refused a connection of a granted address, as it had
	// too many.
	EventBraked
	// EventFile: a file for mail servers named the address, which relaygate had not
	// written there.
	EventFile
	// EventSet: a set of the gate held the address, which relaygate had not put there.
	EventSet
)

var eventWords = []string{
	EventLogin: "login", EventFailure: "failure", EventTainted: "tainted", EventEncrypted: "encrypted", EventUntrusted: "untrusted",
	EventRefused: "refused", EventGranted: "granted", EventRenewed: "renewed", EventExpired: "expired", EventRevoked: "revoked",
	EventDenied: "denied", EventUndenied: "undenied", EventPaused: "paused", EventResumed: "resumed",
	EventBraked: "braked", EventFile: "file", EventSet: "set",
}

func (k EventKind) String() string { return Word(eventWords, k) }

// resultKind is the kind of the event that a verdict is.
func resultKind(r Result) EventKind {
	switch r {
	case Success:
		return EventLogin
	case Failure:
		return EventFailure
	case Encrypted:
		return EventEncrypted
	default:
		return EventTainted
	}
}

// doubt reports whether the event can be caused by somebody who has no account.
func (k EventKind) doubt() bool {
	switch k {
	case EventFailure, EventTainted, EventEncrypted, EventUntrusted:
		return true
	default:
		return false
	}
}

// concernsGrant reports whether only a grant or the administrator can cause the
// event.
func (k EventKind) concernsGrant() bool {
	switch k {
	case EventGranted, EventRenewed, EventExpired, EventRevoked, EventDenied, EventUndenied:
		return true
	default:
		return false
	}
}

// Event is one entry of the journal. Equal events are counted in one.
type Event struct {
	Kind EventKind
	// Time is when it happened first, Last when last, Count how often.
	Time, Last time.Time
	Count      int
	// Prefix is what it concerns: an address, or what a grant covers.
	Prefix netip.Prefix
	// Conn is the last connection concerned, in the journal without its cookie;
	// zero where there is none.
	Conn      Conn
	Mechanism string
	// User and Answer are safe to keep (no secret can be in them), and raw
	// text all the same: print them through Quote.
	User, Answer string
	TLS          bool
	// By names the administrator who caused it ("root (uid 0)"), else "".
	By string
	// Until is when the grant closes; Open means that it has no deadline.
	Until  time.Time
	Open   bool
	Reason string
}

// reasonLimit bounds Event.Reason, in bytes.
const reasonLimit = 300

// bound cuts the texts of an event.
func (e *Event) bound() {
	e.Reason, e.By = cut(e.Reason, reasonLimit), cut(e.By, UserLimit)
	e.User, e.Answer, e.Mechanism = cut(e.User, UserLimit), cut(e.Answer, AnswerLimit), cut(e.Mechanism, UserLimit)
}

// cut bounds s and lets go of what it was cut from.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.Clone(s[:limit])
}

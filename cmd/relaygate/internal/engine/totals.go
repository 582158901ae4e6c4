package engine

import (
	"maps"
	"slices"

	"relaygate/authz/imap"
	"relaygate/authz/line"
	"relaygate/authz/pop3"
	"relaygate/authz/sasl"
)

// Counts are running totals since the start.
type Counts struct {
	Logins, Failures, Tainted, Encrypted uint64
	// Untrusted counts connections to listeners that are not believed.
	Untrusted uint64
	TLS       TLSCounts
}

// doubts counts tainted verdicts by reason.
type doubts map[string]uint64

// Reasons are constants of the code; unconfirmed stands for those of Confirm,
// which name addresses. maxReasons bounds them all the same: what comes after
// is counted as otherDoubt.
const (
	maxReasons  = 64
	otherDoubt  = "other"
	unconfirmed = "the socket tables do not confirm the connection"
)

// boundReasons are the dialogues' reasons for a bound that was hit. They hold
// their places from the start: no flood of other doubts can hide them.
var boundReasons = slices.Concat(line.Bounds, sasl.Bounds, pop3.Bounds, imap.Bounds)

func newDoubts() doubts {
	d := doubts{otherDoubt: 0, unconfirmed: 0}
	for _, reason := range boundReasons {
		d[reason] = 0
	}
	return d
}

func (d doubts) add(reason string) {
	if _, known := d[reason]; !known && len(d) >= maxReasons {
		reason = otherDoubt
	}
	d[reason]++
}

// Doubts counts the tainted verdicts by reason: at most 64 reasons, and those of
// bounds also while they are 0.
func (r *Reader) Doubts() map[string]uint64 { return maps.Clone(r.doubts) }

package engine

import (
	"maps"
	"slices"

	"relaygate/authz/grant"
	"relaygate/authz/imap"
	"relaygate/authz/line"
	"relaygate/authz/pop3"
	"relaygate/authz/sasl"
)

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

// Changes counts what happened to grants since New, by grant.Kind. Every kind is
// there from the start, so that a counter does not appear with its first event.
func (e *Engine) Changes() map[string]uint64 {
	changes := make(map[string]uint64)
	for k := grant.Granted; k <= grant.Resumed; k++ {
		changes[k.String()] = e.changes[k]
	}
	return changes
}

// count notes and counts a change.
func (e *Engine) count(c *grant.Change) {
	e.changes[c.Kind]++
	if c.Kind != grant.Rearmed && !vain(c) {
		e.evidence.Add(c.Event())
	}
}

// vain reports whether c is an order about a network that was refused: in the story of
// each address there it would tell nothing.
func vain(c *grant.Change) bool {
	p := c.Grant.Prefix
	whole := p.IsSingleIP() || p.Addr().Is6() && p.Bits() == 64 // what one client has
	return c.Kind == grant.Refused && c.By != "" && !whole
}

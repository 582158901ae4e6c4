package engine

import (
	"maps"

	"relaygate/authz/grant"
)

// doubts counts tainted verdicts by reason.
type doubts map[string]uint64

// Reasons are constants of the code; Unconfirmed stands for those of Confirm,
// which name addresses. maxReasons bounds them all the same: what comes after
// is counted as OtherDoubt.
const (
	maxReasons  = 64
	OtherDoubt  = "other"
	Unconfirmed = "the socket tables do not confirm the connection"
)

func (d *doubts) add(reason string) {
	if *d == nil {
		*d = make(doubts)
	}
	if _, known := (*d)[reason]; !known && len(*d) >= maxReasons-1 {
		reason = OtherDoubt
	}
	(*d)[reason]++
}

// Doubts counts the tainted verdicts by reason: at most 64 reasons.
func (r *Reader) Doubts() map[string]uint64 {
	out := make(map[string]uint64, len(r.doubts))
	maps.Copy(out, r.doubts)
	return out
}

// newChanges holds every kind from the start, so that a counter does not
// appear with its first event.
func newChanges() map[string]uint64 {
	changes := make(map[string]uint64)
	for k := grant.Granted; k <= grant.Refused; k++ {
		changes[k.String()] = 0
	}
	return changes
}

// Changes counts what happened to grants since New, by grant.Kind.
func (e *Engine) Changes() map[string]uint64 { return maps.Clone(e.changes) }

// count notes and counts a change.
func (e *Engine) count(c *grant.Change) {
	e.changes[c.Kind.String()]++
	e.evidence.Add(c.Event())
}

//go:build linux

package daemon

import (
	"net/netip"

	"relaygate/authz/grant"
)

// marks are what changed since it was written.
type marks struct {
	prefixes map[netip.Prefix]mark
	rules    bool // denials or the pause
}

// markedPart is some of what is marked.
type markedPart struct {
	prefixes []markedPrefix
	rules    bool
}

type markedPrefix struct {
	netip.Prefix
	mark
}

type mark struct{ journal bool }

// changed marks what a change touched; it is called by the owner. A renewal that
// the kernel is not told of yet is not written either: after a crash such a grant
// ends as much too early as its element would.
func (k *keeper) changed(c *grant.Change) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep = k.sweep || c.Rebuild
	switch c.Kind {
	case grant.Denied, grant.Undenied, grant.Paused, grant.Resumed:
		k.marked.rules = true
	case grant.Renewed, grant.Rearmed:
		if !c.Arm {
			return
		}
	case grant.Granted, grant.Expired, grant.Revoked, grant.Refused:
	}
	if c.Grant.Prefix.IsValid() {
		before := k.marked.prefixes[c.Grant.Prefix]
		k.marked.prefixes[c.Grant.Prefix] = mark{journal: before.journal || c.Kind != grant.Rearmed && c.Kind != grant.Renewed}
	}
	if k.woken {
		return
	}
	k.woken = true
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// noted marks a prefix of which only the journal changed; it is called by the
// owner.
func (k *keeper) noted(p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.marked.prefixes[p] = mark{journal: true}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// maxSpare bounds the marks whose memory is kept for the next.
const maxSpare = 1 << 15

// take takes what is marked.
func (k *keeper) take() (list []markedPrefix, rules bool) {
	k.mu.Lock()
	k.woken = false
	rules = k.marked.rules
	marked := k.marked.prefixes
	k.marked = marks{prefixes: k.spare}
	k.mu.Unlock()
	list = make([]markedPrefix, 0, len(marked))
	for p, m := range marked {
		list = append(list, markedPrefix{p, m})
	}
	k.taken.Store(int64(len(list)))
	if clear(marked); len(list) > maxSpare {
		marked = make(map[netip.Prefix]mark)
	}
	k.spare = marked
	return list, rules
}

// takeSweep says whether the file is to be compared with the table; sweepAgain, that
// it could not be.
func (k *keeper) takeSweep() (sweep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sweep, k.sweep = k.sweep, false
	return sweep
}

func (k *keeper) sweepAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep = true
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// mark marks what was taken and could not be written, or was found.
func (k *keeper) mark(list []markedPrefix, rules bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.marked.rules = k.marked.rules || rules
	for _, p := range list {
		before := k.marked.prefixes[p.Prefix]
		k.marked.prefixes[p.Prefix] = mark{journal: before.journal || p.journal}
	}
}

package keeper

import (
	"net/netip"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/message"
)

// marks are what changed since it was written.
type marks struct {
	prefixes []marked
	rules    bool // denials or the pause
}

// marked is a prefix whose grant changed, and with journal what is known of it too.
type marked struct {
	netip.Prefix
	journal bool
}

// Changed marks what a change touched; it is called by the owner. A renewal that
// the kernel is not told of yet is not written either: after a crash such a grant
// ends as much too early as its element would, and its story ends before it.
func (k *Keeper) Changed(c *grant.Change) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep = k.sweep || c.Rebuild
	switch c.Kind {
	case grant.Denied, grant.Undenied, grant.Paused, grant.Resumed:
		k.rules = true
	case grant.Renewed, grant.Rearmed:
		if !c.Arm {
			return
		}
	case grant.Granted, grant.Expired, grant.Revoked, grant.Refused:
	}
	if c.Grant.Prefix.IsValid() {
		k.add(c.Grant.Prefix, true)
	}
	k.rouse()
}

// Noted marks a prefix of which only the journal changed; it is called by the
// owner.
func (k *Keeper) Noted(p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(p, true)
	k.rouse()
}

// add marks a prefix; mu is held.
func (k *Keeper) add(p netip.Prefix, journal bool) { k.marked[p] = k.marked[p] || journal }

// rouse wakes run once until it has taken what is marked; mu is held.
func (k *Keeper) rouse() {
	if !k.roused {
		k.roused = true
		message.Wake(k.wake)
	}
}

// maxSpare bounds the marks whose memory is kept for the next.
const maxSpare = 1 << 15

// take takes what is marked.
func (k *Keeper) take() marks {
	k.mu.Lock()
	k.roused = false
	taken, rules := k.marked, k.rules
	k.marked, k.rules = k.spare, false
	k.mu.Unlock()
	list := make([]marked, 0, len(taken))
	for p, journal := range taken {
		list = append(list, marked{p, journal})
	}
	k.taken.Store(int64(len(list)))
	if clear(taken); len(list) > maxSpare {
		taken = make(map[netip.Prefix]bool)
	}
	k.spare = taken
	return marks{list, rules}
}

// markAll marks all that grants stand for, where the owner has ended.
func (k *Keeper) markAll(t *grant.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for g := range t.All() {
		if g.Source != grant.Always {
			k.add(g.Prefix, true)
		}
	}
}

// mark marks what was taken and could not be written, or was found.
func (k *Keeper) mark(m marks) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rules = k.rules || m.rules
	for _, p := range m.prefixes {
		k.add(p.Prefix, p.journal)
	}
}

// takeSweep says whether the file is to be compared with the table; SweepAgain, that it
// is to be.
func (k *Keeper) takeSweep() (sweep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sweep, k.sweep = k.sweep, false
	return sweep
}

func (k *Keeper) SweepAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep = true
	k.rouse()
}

package keeper

import (
	"net/netip"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

// What is here runs in the owner's goroutine. All records of grants and of the
// journal are handed to the store there, so that the last one is the newest; the
// store does not wait for the disk.

// Granted keeps a new grant at once: what there is to be written has just been made.
// It reports false if too much waits for the disk already; then it had better be
// marked, which is cheaper to keep.
func (k *Keeper) Granted(e *engine.Engine, now time.Time, b grant.Boot, g grant.Grant) bool {
	if k.crowded() {
		return false
	}
	key := g.Prefix.String()
	k.grant(key, now, b, g)
	k.note(e, key, g.Prefix)
	return true
}

func (k *Keeper) grant(key string, now time.Time, b grant.Boot, g grant.Grant) {
	saved := grant.Save(now, b, g)
	k.text = state.AppendGrant(k.text[:0], &saved)
	k.store.Put(grantsBucket, key, k.text)
}

// note keeps what the journal knows about a prefix.
func (k *Keeper) note(e *engine.Engine, key string, p netip.Prefix) {
	if !e.Evidence().Kept(p, &k.kept) {
		return
	}
	k.text = state.AppendKept(k.text[:0], &k.kept)
	k.store.Put(journalBucket, key, k.text)
	k.journal.Add(1)
}

// keepNow keeps marked things as they are; the rules are returned, nil unless they are
// marked.
func (k *Keeper) keepNow(e *engine.Engine, now time.Time, m marks) (rules *grant.State) {
	b, t := clock.Boot(), e.Grants()
	for _, p := range m.prefixes {
		key := p.String()
		if g, ok := t.Of(p.Prefix); ok && g.Source != grant.Always {
			k.grant(key, now, b, g)
		} else {
			k.store.Delete(grantsBucket, key)
		}
		if p.journal {
			k.note(e, key, p.Prefix)
		}
	}
	if m.rules {
		rules = &grant.State{Denials: t.Denials()}
		for i, d := range rules.Denials {
			rules.Denials[i] = d.Keep(now, b)
		}
		if p, ok := t.Paused(); ok {
			rules.Paused = &p
		}
	}
	return rules
}

// forgetNow takes out of the journal in the file what that in memory does not hold, or
// holds nothing of that is younger than oldest.
func (k *Keeper) forgetNow(e *engine.Engine, list []netip.Prefix, oldest time.Time) {
	for _, p := range list {
		if !e.Evidence().Kept(p, &k.kept) || stale(&k.kept, oldest) {
			k.store.Delete(journalBucket, p.String())
		}
	}
}

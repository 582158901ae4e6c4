package keeper

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

// stored are the prefixes of which a bucket holds something.
func (k *Keeper) stored(bucket string) (list []netip.Prefix, err error) {
	err = k.store.Flush()
	if err == nil {
		err = k.store.Each(bucket, func(key string, _ []byte) error {
			if p, err := netip.ParsePrefix(key); err == nil {
				list = append(list, p)
			}
			return nil
		})
	}
	if err != nil {
		k.log.Error("the state cannot be compared with what holds", "error", err)
	}
	return list, err
}

// forget deletes what the journal in memory holds no more.
func (k *Keeper) forget(ctx context.Context) {
	k.journal.Store(0)
	list, _ := k.stored(journalBucket) // an error has been said; what stays is only too much
	k.prune(ctx, list, time.Time{})
}

// prune lets the owner do pruneNow, part by part.
func (k *Keeper) prune(ctx context.Context, list []netip.Prefix, oldest time.Time) {
	for part := range slices.Chunk(list, askBatch) {
		if k.owner.Do(ctx, func(e *engine.Engine, _ time.Time) { k.pruneNow(e, part, oldest) }) != nil {
			return // the daemon ends
		}
	}
}

// outdated lists the prefixes of which the journal in the file knows nothing that is
// younger than the configuration has it now.
func (k *Keeper) outdated(oldest time.Time) (list []netip.Prefix) {
	err := k.store.Each(journalBucket, func(key string, data []byte) error {
		if kept, err := state.ParseKept(data); err == nil && !stale(&kept, oldest) {
			return nil
		}
		if p, err := netip.ParsePrefix(key); err == nil {
			list = append(list, p)
		} else {
			k.store.Delete(journalBucket, key)
		}
		return nil
	})
	if err != nil {
		k.log.Error("the state cannot be read", "error", err)
	}
	return list
}

// oldest is when what is forgotten now was seen last.
func (k *Keeper) oldest(now time.Time) time.Time {
	return now.Add(-time.Duration(k.retain.Load()))
}

func stale(kept *authz.Kept, oldest time.Time) bool {
	last, err := kept.Last()
	return err != nil || !kept.Open && last.Before(oldest) && kept.Until.Before(oldest)
}

// Load reads the state file, and forgets of the journal what is too old.
func (k *Keeper) Load(now time.Time) (Restored, error) {
	for _, p := range k.outdated(k.oldest(now)) {
		k.store.Delete(journalBucket, p.String())
	}
	r, err := load(k.store, now, every)
	k.tellBad(r.Bad)
	k.denials = make(map[string]bool)
	if err == nil {
		err = k.store.Each(denialsBucket, func(key string, _ []byte) error { k.denials[key] = true; return nil })
	}
	return r, err
}

// Grants visits the grants of the file until visit says false: one by one, as there
// may be a million.
func (k *Keeper) Grants(visit func(*grant.Saved) bool) error {
	bad := make(map[string]int)
	err := grants(k.store, every, bad, visit)
	k.tellBad(bad)
	return err
}

func (k *Keeper) tellBad(bad map[string]int) {
	for kind, n := range bad {
		k.log.Error("records of the state file cannot be understood", "kind", kind, "records", n)
	}
}

// Over deletes a grant of the file that does not stand any more. At a start nothing is
// written yet: of very many, the comparison with the table deletes the rest.
func (k *Keeper) Over(p netip.Prefix) {
	if k.crowded() {
		k.SweepAgain()
		return
	}
	k.store.Delete(grantsBucket, p.String())
}

// mend makes the file again that somebody took away or spoiled, and where nothing of it
// could be read, with all that is in memory: what is known of addresses that are closed
// now is lost.
func (k *Keeper) mend(ctx context.Context) {
	done, empty, err := k.store.Mend(time.Now())
	if err != nil || done == "" {
		return // Stats tells of the error
	}
	k.log.Error(done, "path", k.path, "empty", empty)
	if !empty {
		return
	}
	var list []marked
	err = k.owner.Prefixes(ctx, func(p *netip.Prefix) { list = append(list, marked{*p, true}) })
	if err == nil {
		err = k.owner.Forgotten(ctx)
	}
	if err != nil {
		return // the daemon ends
	}
	if r := k.run.Load(); r != nil {
		k.put(runBucket, runKey, *r)
	}
	k.mark(marks{list, true})
	k.SweepAgain() // which wakes run
}

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

// forget deletes of the journal what that in memory holds no more, or what is too old, and
// asks part by part.
func (k *Keeper) forget(ctx context.Context) {
	k.journal.Store(0)
	list, _ := k.stored(journalBucket) // an error has been said; what stays is only too much
	oldest := k.oldest(time.Now())
	for part := range slices.Chunk(list, askBatch) {
		if k.owner.Do(ctx, func(e *engine.Engine, _ time.Time) { k.forgetNow(e, part, oldest) }) != nil {
			return // the daemon ends
		}
	}
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
	oldest := k.oldest(now)
	err := k.store.Each(journalBucket, func(key string, data []byte) error {
		if kept, err := state.ParseKept(data); err != nil || stale(&kept, oldest) {
			k.store.Delete(journalBucket, key)
		}
		return nil
	})
	if err != nil {
		k.log.Error("the state cannot be read", "error", err)
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

package keeper

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/cmd/relaygate/internal/engine"
)

// Save returns when all that changed before is on the disk.
func (k *Keeper) Save(ctx context.Context) error {
	done := make(chan error, 1)
	return message.Ask(ctx, k.asked, done, done)
}

// Run is the task.
func (k *Keeper) Run(ctx context.Context) error {
	written := make(chan error, 1)
	go func() { written <- k.store.Run(ctx) }()
	forget, mend := time.NewTicker(forgetEvery), time.NewTicker(mendEvery)
	defer forget.Stop()
	defer mend.Stop()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return <-written
		case <-k.wake:
			if due == nil {
				due = time.After(collectEvery)
			}
		case <-due:
			due = nil
			if err := k.collect(ctx); err != nil {
				due = time.After(retryEvery) // the marks stay
			}
		case <-mend.C:
			k.mend(ctx)
		case done := <-k.asked:
			k.mend(ctx)
			err := k.collect(ctx)
			if err != nil && due == nil {
				due = time.After(retryEvery)
			}
			done <- errors.Join(err, k.store.Flush(), k.store.Unwritten())
		case <-forget.C:
			k.journal.Store(forgetAfter)
		}
		if k.journal.Load() >= forgetAfter {
			k.forget(ctx)
		}
	}
}

// collect asks for all that is marked and writes it. If more changed than was told, it
// compares the file's grants with the table then: that may take seconds, and what was
// told is on the disk before.
func (k *Keeper) collect(ctx context.Context) error {
	if err := k.collectMarked(ctx); err != nil || !k.takeSweep() {
		return err
	}
	stored, err := k.stored(grantsBucket)
	if err != nil {
		k.SweepAgain()
		return err
	}
	list := make([]marked, len(stored))
	for i, p := range stored {
		list[i].Prefix = p
	}
	k.mark(marks{prefixes: list})
	return k.collectMarked(ctx)
}

// collectMarked does that part by part. Where the disk does not take it, the rest
// stays marked, which is cheaper than records.
func (k *Keeper) collectMarked(ctx context.Context) error {
	left := k.take()
	defer k.taken.Store(0)
	for left.rules || len(left.prefixes) > 0 {
		n := min(len(left.prefixes), askBatch)
		rules, err := k.keep(ctx, marks{left.prefixes[:n], left.rules})
		if err != nil {
			k.mark(left)
			return err
		}
		if rules != nil {
			k.putRules(rules)
		}
		left = marks{prefixes: left.prefixes[n:]}
		k.taken.Store(int64(len(left.prefixes)))
	}
	return nil
}

// putRules writes the pause and all denials down, and deletes those that were lifted.
func (k *Keeper) putRules(s *grant.State) {
	if s.Paused != nil {
		k.put(pauseBucket, pauseKey, *s.Paused)
	} else {
		k.store.Delete(pauseBucket, pauseKey)
	}
	lifted := k.denials
	k.denials = make(map[string]bool, len(s.Denials))
	for _, d := range s.Denials {
		key := d.Prefix.String()
		k.put(denialsBucket, key, d)
		k.denials[key] = true
		delete(lifted, key)
	}
	for key := range lifted {
		k.store.Delete(denialsBucket, key)
	}
}

// crowded says that too much waits for the disk.
func (k *Keeper) crowded() bool {
	st := k.store.Stats()
	return st.Pending > maxWaiting || st.PendingBytes > maxWaitingBytes
}

// keep lets the owner keep marked things, if the disk takes them.
func (k *Keeper) keep(ctx context.Context, m marks) (rules *grant.State, err error) {
	if k.crowded() {
		if err := k.store.Flush(); err != nil {
			return nil, err
		}
	}
	err = k.owner.Do(ctx, func(e *engine.Engine, now time.Time) { rules = k.keepNow(e, now, m) })
	return rules, err // it fails if the daemon ends
}

// Close writes what is left: what was marked, and the counters. The owner has ended, and
// e is nobody's any more; it is nil where there was none yet.
func (k *Keeper) Close(e *engine.Engine, counters map[string]uint64) (failed error) {
	k.PutCounters(counters)
	if e != nil {
		ctx := context.Background()
		k.owner = ended(e)
		_ = k.store.Flush() // what it finds wrong with the file is mended
		k.mend(ctx)
		if e.Grants().Len() <= exactAtStop {
			k.markAll(e.Grants())
		}
		failed = k.collect(ctx)
		if r := k.run.Load(); r != nil {
			stopped := *r
			stopped.Stopped = true
			k.PutRun(stopped)
		}
	}
	return errors.Join(failed, k.store.Close())
}

// ended is an owner that has ended: its engine is asked by whoever has it.
func ended(e *engine.Engine) Owner {
	return Owner{
		Do: func(_ context.Context, do func(*engine.Engine, time.Time)) error { do(e, time.Now()); return nil },
		Prefixes: func(_ context.Context, visit func(*netip.Prefix)) error {
			for g := range e.Grants().All() {
				visit(&g.Prefix)
			}
			return nil
		},
		Forgotten: func(context.Context) error { return nil },
	}
}

// pending counts what is not on the disk yet.
func (k *Keeper) pending() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.marked) + int(k.taken.Load()) + k.store.Stats().Pending
	if k.sweep || k.rules {
		n++
	}
	return n
}

//go:build linux

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

// The buckets of the state file.
const (
	grantsBucket   = "grants"   // prefix → grant.Saved
	denialsBucket  = "denials"  // prefix → grant.Denial
	pauseBucket    = "pause"    // pauseKey → grant.Pause
	sessionsBucket = "sessions" // cookie → savedSession
	journalBucket  = "journal"  // prefix → authz.Kept
	countersBucket = "counters" // name → number
)

const pauseKey = "pause"

// keeper is the goroutine that writes down what must survive a restart. The
// owner only marks what changed and never waits; the keeper asks it, a few
// prefixes at a time, how they are.
type keeper struct {
	store  *state.Store
	path   string
	log    *slog.Logger
	retain atomic.Int64 // time.Duration
	// owner lets the owner do something with its engine; prefixes visits all grants,
	// and forgotten lets the owner keep all that no mark stands for.
	owner     func(ctx context.Context, do func(e *engine.Engine, now time.Time)) error
	prefixes  func(context.Context, func(*netip.Prefix)) error
	forgotten func(context.Context) error

	wake    chan struct{}
	asked   chan chan error
	rows    chan row        // sessions and counters: what finds no room comes again
	taken   atomic.Int64    // how much of what was marked is asked for
	journal atomic.Int64    // records of it that were written since the last forget
	encoded bytes.Buffer    // run's, for what it writes
	denials map[string]bool // their keys in the file; run's too
	// For what the owner writes, and the owner's.
	text []byte
	kept authz.Kept

	mu     sync.Mutex
	marked map[netip.Prefix]bool // what changed; true: in the journal too
	spare  map[netip.Prefix]bool // empty, for marked
	rules  bool                  // denials or the pause changed
	// sweep: more changed than was told, so that every row must be compared.
	sweep bool
	// roused: run was told since the last take.
	roused bool
}

// row is a record to be written, or to be deleted where value is nil.
type row struct {
	bucket, key string
	value       any
}

// The bounds and the pace of what is kept.
const (
	rowQueue = 16384
	askBatch = 250 // prefixes per question: about a millisecond in a storm
	// maxWaiting and maxWaitingBytes are what may wait for the disk when more is
	// asked for. The store's own bounds leave room for an answer above that: 25 MB,
	// of askBatch prefixes with 24 notes of 4 KiB (authz).
	maxWaiting      = 32768
	maxWaitingBytes = 32 << 20
	// collectEvery lets the owner be asked once about many logins.
	collectEvery = 100 * time.Millisecond
	retryEvery   = 5 * time.Second
	// mendEvery is how often it is looked whether the file is there still.
	mendEvery = 2 * time.Second
	// forgetEvery and forgetAfter are how often, and after how many records of it,
	// the journal in the file is made to forget what that in memory did: so the
	// bounds of the one bound the other.
	forgetEvery = time.Hour
	forgetAfter = 1 << 18
	// exactAtStop is up to how many grants a clean stop writes once more, as
	// renewals are written only when the kernel is told of them too.
	exactAtStop = 50_000
)

func openKeeper(path string, retain time.Duration, now time.Time, log *slog.Logger) (*keeper, error) {
	s, err := state.Open(path, now)
	if err != nil {
		return nil, fmt.Errorf("open the state: %w", err)
	}
	if words := s.Aside(); words != "" {
		log.Error(words)
	}
	k := &keeper{
		store: s, path: path, log: log, rows: make(chan row, rowQueue), wake: make(chan struct{}, 1), asked: make(chan chan error),
		marked: make(map[netip.Prefix]bool), spare: make(map[netip.Prefix]bool),
	}
	k.retain.Store(int64(retain))
	return k, nil
}

// ruleRows are all denials and the pause.
func ruleRows(t *grant.Table, now time.Time, b grant.Boot) []row {
	pause := row{bucket: pauseBucket, key: pauseKey}
	if p, ok := t.Paused(); ok {
		pause.value = p
	}
	rows := []row{pause}
	for _, d := range t.Denials() {
		rows = append(rows, row{bucket: denialsBucket, key: d.Prefix.String(), value: d.Keep(now, b)})
	}
	return rows
}

// put writes a row that nobody waits for. It reports false if there is no room.
func (k *keeper) put(r row) bool {
	select {
	case k.rows <- r:
		return true
	default:
		return false
	}
}

// save returns when all that changed before is on the disk.
func (k *keeper) save(ctx context.Context) error {
	done := make(chan error, 1)
	return message.Ask(ctx, k.asked, done, done)
}

func (k *keeper) run(ctx context.Context, ready func()) error {
	ready()
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
		case r := <-k.rows:
			k.write(r)
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
			done <- errors.Join(err, k.store.Flush())
		case <-forget.C:
			oldest := k.oldest(time.Now())
			k.prune(ctx, k.outdated(oldest), oldest)
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
func (k *keeper) collect(ctx context.Context) error {
	if err := k.collectMarked(ctx); err != nil || !k.takeSweep() {
		return err
	}
	stored, err := k.stored(grantsBucket)
	if err != nil {
		k.sweepAgain()
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
// stays marked, which is cheaper than rows.
func (k *keeper) collectMarked(ctx context.Context) error {
	left := k.take()
	defer k.taken.Store(0)
	for left.rules || len(left.prefixes) > 0 {
		n := min(len(left.prefixes), askBatch)
		rows, err := k.keep(ctx, marks{left.prefixes[:n], left.rules})
		if err != nil {
			k.mark(left)
			return err
		}
		if left.rules {
			rows = append(rows, k.lifted(rows)...)
		}
		for _, r := range rows {
			k.write(r)
		}
		left = marks{prefixes: left.prefixes[n:]}
		k.taken.Store(int64(len(left.prefixes)))
	}
	return nil
}

// lifted are the rows of denials that the file has and rules has not.
func (k *keeper) lifted(rules []row) (gone []row) {
	was := k.denials
	k.denials = make(map[string]bool, len(rules))
	for _, r := range rules {
		if r.bucket == denialsBucket {
			k.denials[r.key] = true
		}
	}
	for key := range was {
		if !k.denials[key] {
			gone = append(gone, row{bucket: denialsBucket, key: key})
		}
	}
	return gone
}

// crowded says that too much waits for the disk.
func (k *keeper) crowded() bool {
	st := k.store.Stats()
	return st.Pending > maxWaiting || st.PendingBytes > maxWaitingBytes
}

// keep lets the owner keep marked things, if the disk takes them.
func (k *keeper) keep(ctx context.Context, m marks) (rules []row, err error) {
	if k.crowded() {
		if err := k.store.Flush(); err != nil {
			return nil, err
		}
	}
	err = k.owner(ctx, func(e *engine.Engine, now time.Time) { rules = k.keepNow(e, now, m) })
	return rules, err // it fails if the daemon ends
}

// close writes what is left: rows, and what was marked. The owner has ended, and
// e is nobody's any more.
func (k *keeper) close(e *engine.Engine, rows []row) (failed error) {
	for len(k.rows) > 0 {
		k.write(<-k.rows)
	}
	if e != nil {
		k.owner = func(_ context.Context, do func(*engine.Engine, time.Time)) error { do(e, time.Now()); return nil }
		failed = k.collect(context.Background())
		rows = append(rows, k.mendLast(e)...)
	}
	for _, r := range rows {
		k.write(r)
	}
	return errors.Join(failed, k.store.Close())
}

// pending counts what is not on the disk yet.
func (k *keeper) pending() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.marked) + int(k.taken.Load()) + len(k.rows) + k.store.Stats().Pending
	if k.sweep || k.rules {
		n++
	}
	return n
}

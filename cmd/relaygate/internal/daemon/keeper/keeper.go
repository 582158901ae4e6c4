// Package keeper is the task that writes down what must survive a restart: grants,
// denials, the pause, sessions, the journal and counters.
//
//	Changed, Noted ─mark─▶ Run ─question─▶ owner ─record─▶ state.Store ─▶ disk
//	Granted, PutSession, PutCounters ─────────────record─▶
package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

// The buckets of the state file.
const (
	grantsBucket   = "grants"   // prefix → grant.Saved
	denialsBucket  = "denials"  // prefix → grant.Denial
	pauseBucket    = "pause"    // pauseKey → grant.Pause
	sessionsBucket = "sessions" // cookie → Session
	journalBucket  = "journal"  // prefix → authz.Kept
	countersBucket = "counters" // name → number
	runBucket      = "run"      // runKey → Run
)

const (
	pauseKey = "pause"
	runKey   = "last"
)

// Keeper is the task. The owner only marks what changed and never waits; the keeper asks
// it, a few prefixes at a time, how they are.
type Keeper struct {
	store  *state.Store
	path   string
	log    *slog.Logger
	retain atomic.Int64 // time.Duration
	owner  Owner

	wake    chan struct{}
	asked   chan chan error
	run     atomic.Pointer[Run]
	taken   atomic.Int64    // how much of what was marked is asked for
	journal atomic.Int64    // records of it that were written since the last forget
	denials map[string]bool // their keys in the file; run's
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

// Owner is who owns the engine.
type Owner struct {
	// Do lets the owner do something with its engine.
	Do func(ctx context.Context, do func(e *engine.Engine, now time.Time)) error
	// Prefixes visits those of all grants.
	Prefixes func(context.Context, func(*netip.Prefix)) error
	// Forgotten lets the owner keep again all that no mark stands for.
	Forgotten func(context.Context) error
}

// Connect tells the keeper whom to ask; it comes before Run.
func (k *Keeper) Connect(o Owner) { k.owner = o }

// SetRetain changes for how long the journal is kept.
func (k *Keeper) SetRetain(d time.Duration) { k.retain.Store(int64(d)) }

// Fresh says that nothing was known from before.
func (k *Keeper) Fresh() bool { return k.store.Fresh() }

// The bounds and the pace of what is kept.
const (
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
	// exactAtStop is up to how many grants a clean stop writes once more, with their story, as
	// renewals are written only when the kernel is told of them too.
	exactAtStop = 50_000
)

// Open opens the file at path, or makes one.
func Open(path string, retain time.Duration, now time.Time, log *slog.Logger) (*Keeper, error) {
	s, err := state.Open(path, now, denialsBucket, pauseBucket)
	if err != nil {
		return nil, fmt.Errorf("open the state: %w", err)
	}
	if words := s.Aside(); words != "" {
		log.Error(words)
	} else if s.Fresh() {
		log.Info("there was no state file: nothing is known of before", "path", path)
	}
	if err := s.Unwritten(); err != nil {
		log.Error("the state is in memory until it can be written, and a restart would forget", "path", path, "error", err)
	}
	k := &Keeper{
		store: s, path: path, log: log, wake: make(chan struct{}, 1), asked: make(chan chan error),
		marked: make(map[netip.Prefix]bool), spare: make(map[netip.Prefix]bool),
	}
	k.SetRetain(retain)
	return k, nil
}

// Session is one that holds a grant, as the file has it.
type Session struct {
	grant.Session
	Conn authz.Conn
	Boot string // during which it was open
}

// sessionKey is the key of a session.
func sessionKey(c authz.Conn) string { return strconv.FormatUint(c.Cookie, 16) }

// PutSession writes a session down. It reports false if too much waits for the disk
// already: then it is to come again.
func (k *Keeper) PutSession(s Session) bool {
	if k.crowded() {
		return false
	}
	k.put(sessionsBucket, sessionKey(s.Conn), s)
	return true
}

// DropSession deletes it.
func (k *Keeper) DropSession(c authz.Conn) { k.store.Delete(sessionsBucket, sessionKey(c)) }

// Run is what a daemon did, for the next one to compare.
type Run struct {
	// Mode is the gate's, "" if that is not known; Relayhosts and Users are the files for
	// mail servers, and Keep says that they keep their lines at its end.
	Mode              string
	Relayhosts, Users string
	Keep              bool
	// Stopped: it has ended well, and left them so.
	Stopped bool
}

// PutRun writes down what this daemon does.
func (k *Keeper) PutRun(r Run) {
	k.run.Store(&r)
	k.put(runBucket, runKey, r)
}

// PutCounters writes counters down.
func (k *Keeper) PutCounters(counts map[string]uint64) {
	for name, n := range counts {
		k.put(countersBucket, name, n)
	}
}

// put hands a record to the store, which does not wait for the disk.
func (k *Keeper) put(bucket, key string, v any) {
	data, err := state.Encode(v)
	if err != nil {
		k.log.Error("a record cannot be kept over a restart", "kind", bucket, "error", err)
		return
	}
	k.store.Put(bucket, key, data)
}

//go:build linux

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

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
	sessionsBucket = "sessions" // cookie → savedSession
	journalBucket  = "journal"  // prefix → authz.Kept
	countersBucket = "counters" // name → number
)

const pauseKey = "pause"

// keeper is the goroutine that writes down what must survive a restart. The
// owner hands it rows and never waits.
type keeper struct {
	store *state.Store
	log   *slog.Logger
	rows  chan row
	// behind: a row found no room. Then everything is written anew.
	behind   atomic.Bool
	snapshot func(context.Context) (rows []row, err error)
	retain   atomic.Int64 // time.Duration
}

// row is a record to be written, or to be deleted where value is nil.
type row struct {
	bucket, key string
	value       any
	flushed     chan error // answered when it, and all before it, is written
}

// The bounds and the pace of what is kept.
const (
	rowQueue   = 16384
	pruneEvery = time.Hour
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
	k := &keeper{store: s, log: log, rows: make(chan row, rowQueue)}
	k.retain.Store(int64(retain))
	return k, nil
}

// boot is this moment by the clock since boot.
func boot() grant.Boot {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var ts unix.Timespec
	if err = errors.Join(err, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)); err != nil {
		return grant.Boot{} // then the wall clock counts
	}
	return grant.Boot{ID: strings.TrimSpace(string(id)), At: time.Duration(ts.Nano())}
}

// changed writes down a change; it is called by the owner. A renewal that the
// kernel is not told of yet is not written either: after a crash such a grant
// ends as much too early as its element would.
func (k *keeper) changed(now time.Time, c *grant.Change, e *engine.Engine) {
	e.Change(func(t *grant.Table) []grant.Change { k.stands(now, c, t); return nil })
	if c.Kind == grant.Renewed || c.Kind == grant.Rearmed {
		return // not worth a write: the next other change tells it too
	}
	if kept, ok := e.Kept(c.Grant.Prefix); ok {
		k.put(row{bucket: journalBucket, key: c.Grant.Prefix.String(), value: kept})
	}
}

// stands writes down what a change left.
func (k *keeper) stands(now time.Time, c *grant.Change, t *grant.Table) {
	key := c.Grant.Prefix.String()
	switch c.Kind {
	case grant.Granted, grant.Renewed, grant.Rearmed:
		if c.Grant.Source != grant.Always && (c.Arm || c.Kind == grant.Granted) {
			k.put(row{bucket: grantsBucket, key: key, value: grant.Save(now, boot(), c.Grant)})
		}
	case grant.Expired, grant.Revoked:
		k.put(row{bucket: grantsBucket, key: key})
	case grant.Denied:
		for _, d := range t.Denials() {
			if d.Prefix == c.Grant.Prefix {
				k.put(row{bucket: denialsBucket, key: key, value: d})
			}
		}
	case grant.Undenied:
		k.put(row{bucket: denialsBucket, key: key})
	case grant.Paused:
		if p, ok := t.Paused(); ok {
			k.put(row{bucket: pauseBucket, key: pauseKey, value: p})
		}
	case grant.Resumed:
		k.put(row{bucket: pauseBucket, key: pauseKey})
	case grant.Refused:
	}
}

func (k *keeper) put(r row) {
	select {
	case k.rows <- r:
	default:
		k.behind.Store(true)
	}
}

// save returns when all that was put before is on the disk.
func (k *keeper) save(ctx context.Context) error {
	r := row{flushed: make(chan error, 1)}
	select {
	case k.rows <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.flushed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *keeper) run(ctx context.Context, ready func()) error {
	ready()
	written := make(chan error, 1)
	go func() { written <- k.store.Run(ctx) }()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return <-written
		case r := <-k.rows:
			k.write(r)
		case <-prune.C:
			k.prune(time.Now())
		}
		if len(k.rows) == 0 && k.behind.Swap(false) {
			k.rewrite(ctx)
		}
	}
}

func (k *keeper) write(r row) {
	switch {
	case r.flushed != nil:
		r.flushed <- k.store.Flush()
	case r.value == nil:
		k.store.Delete(r.bucket, r.key)
	default:
		data, err := json.Marshal(r.value)
		if err != nil {
			k.log.Error("a record cannot be kept over a restart", "kind", r.bucket, "error", err)
			return
		}
		k.store.Put(r.bucket, r.key, data)
	}
}

// rewrite writes everything anew, and deletes what is no more.
func (k *keeper) rewrite(ctx context.Context) {
	rows, err := k.snapshot(ctx)
	if err != nil {
		k.behind.Store(true)
		return
	}
	k.all(rows)
}

func (k *keeper) all(rows []row) {
	there := make(map[[2]string]bool, len(rows))
	for _, r := range rows {
		there[[2]string{r.bucket, r.key}] = true
	}
	if err := k.store.Flush(); err != nil {
		k.log.Error("the state cannot be written", "error", err)
	}
	for _, bucket := range []string{grantsBucket, denialsBucket, pauseBucket} {
		err := k.store.Each(bucket, func(key string, _ []byte) error {
			if !there[[2]string{bucket, key}] {
				k.store.Delete(bucket, key)
			}
			return nil
		})
		if err != nil {
			k.log.Error("the state cannot be read", "error", err)
		}
	}
	for _, r := range rows {
		k.write(r)
	}
}

// everything is all rows but the journal's; it runs in the owner's goroutine.
func everything(t *grant.Table, now time.Time) (rows []row) {
	b := boot()
	for g := range t.All() {
		if g.Source != grant.Always {
			rows = append(rows, row{bucket: grantsBucket, key: g.Prefix.String(), value: grant.Save(now, b, g)})
		}
	}
	for _, d := range t.Denials() {
		rows = append(rows, row{bucket: denialsBucket, key: d.Prefix.String(), value: d})
	}
	if p, ok := t.Paused(); ok {
		rows = append(rows, row{bucket: pauseBucket, key: pauseKey, value: p})
	}
	return rows
}

// prune forgets what the journal has forgotten: prefixes of which nothing was
// seen for too long.
func (k *keeper) prune(now time.Time) {
	oldest := now.Add(-time.Duration(k.retain.Load()))
	err := k.store.Each(journalBucket, func(key string, data []byte) error {
		var kept authz.Kept
		if json.Unmarshal(data, &kept) != nil || stale(&kept, oldest) {
			k.store.Delete(journalBucket, key)
		}
		return nil
	})
	if err != nil {
		k.log.Error("the state cannot be read", "error", err)
	}
}

func stale(kept *authz.Kept, oldest time.Time) bool {
	last := kept.Until
	for i := range kept.Events {
		if t := kept.Events[i].Last; t.After(last) {
			last = t
		}
	}
	return !kept.Open && last.Before(oldest)
}

// restored is what the state file held.
type restored struct {
	state    grant.State
	grants   []grant.Saved
	sessions []savedSession
	journal  []authz.Kept
	counters map[string]uint64
}

// load reads the state file. A record that cannot be understood is left out and
// said.
func (k *keeper) load(now time.Time) (r restored, err error) {
	k.prune(now)
	r.counters = make(map[string]uint64)
	read := func(bucket string, take func(key string, data []byte) error) {
		bad := 0
		err = errors.Join(err, k.store.Each(bucket, func(key string, data []byte) error {
			if take(key, data) != nil {
				bad++
			}
			return nil
		}))
		if bad > 0 {
			k.log.Error("records of the state file cannot be understood", "kind", bucket, "records", bad)
		}
	}
	read(grantsBucket, func(_ string, data []byte) error { return decode(data, &r.grants) })
	read(denialsBucket, func(_ string, data []byte) error { return decode(data, &r.state.Denials) })
	read(sessionsBucket, func(_ string, data []byte) error { return decode(data, &r.sessions) })
	read(journalBucket, func(_ string, data []byte) error { return decode(data, &r.journal) })
	read(pauseBucket, func(_ string, data []byte) error {
		r.state.Paused = new(grant.Pause)
		return json.Unmarshal(data, r.state.Paused)
	})
	read(countersBucket, func(key string, data []byte) error {
		var n uint64
		err := json.Unmarshal(data, &n)
		r.counters[key] = n
		return err
	})
	return r, err
}

func decode[T any](data []byte, into *[]T) error {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	*into = append(*into, v)
	return nil
}

// close writes what is left. rows are everything, or nil to leave the file as it
// is.
func (k *keeper) close(rows []row) error {
	for len(k.rows) > 0 {
		k.write(<-k.rows)
	}
	if rows != nil {
		k.all(rows)
	}
	return k.store.Close()
}

// Package state is the file that carries grants, denials and evidence over a
// restart: records by bucket and key in a bbolt database, each with a checksum.
//
// Writers never wait for the disk: what they put gathers until Run writes it, many
// changes in one transaction and in their order (see tailBucket). Opening copies
// every record into a new file, which then takes the old one's place: damage is
// found at the start, nothing of a damaged page lives on, and the file does not grow
// with its age. A file that cannot be read is put aside, and the store begins empty;
// where it cannot be opened at all, nothing begins.
// Where the new file cannot be written, as on a full disk, it is in memory until it can
// (Mend), and the old one stays as it is.
package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/authz"
)

// Version is that of the records' shapes. A file of another version is put
// aside.
const Version = 3

// The bounds and the pace of a store.
const (
	// groupEvery and groupSize: changes are written together, at the latest
	// after the one, or when there are as many as the other: no storm of logins
	// makes as many meanwhile, and so none waits for the disk more often.
	groupEvery = 250 * time.Millisecond
	groupSize  = 16384
	// maxPending and maxPendingBytes bound what waits for a disk that cannot be
	// written, in changes and in bytes.
	maxPending      = 1 << 17
	maxPendingBytes = 64 << 20
	// maxFile bounds the file in bytes.
	maxFile = 2 << 30
)

// ErrLocked says that another process has the file open.
var ErrLocked = errors.New("another relaygate has the state file open")

// Store is an open state file. Its methods may be called from many goroutines.
type Store struct {
	path  string
	db    atomic.Pointer[database]
	file  os.FileInfo // of what was put at path; nil while all is in memory
	lock  *os.File
	fresh bool
	aside string
	kept  time.Time
	more  chan struct{} // groupSize is reached

	merging sync.Mutex // held during a merge
	writing sync.Mutex // held during a transaction
	spare   []byte     // room for the next group; the writer's
	tail    int        // size of the tail in bytes; the writer's

	mu      sync.Mutex
	pending group
	// flying and flyingBytes are of the group that is being written: if that
	// fails it is pending again.
	flying, flyingBytes int
	stats               Stats
	spoiled             bool  // a write found the file damaged
	unmapped            bool  // a write found that it is not in memory: see reopen
	unwritten           error // why all is in memory; nil where it is not
}

// id names a record.
type id struct{ bucket, key string }

// Stats tell how a store is.
type Stats struct {
	// Writes counts groups, Records the changes in them, Errors what failed; LastError
	// is empty again after one that did not.
	Writes, Records, Errors uint64
	LastError               string
	// Lost counts changes that found no room: the file is behind then until these
	// records change again.
	Lost uint64
	// Merges counts how often a tail was put in its place.
	Merges uint64
	// Pending changes wait to be written, or are being written, of so many bytes.
	Pending, PendingBytes int
	// Written is when the last transaction was, and Began when the one began that goes
	// on; zero if none does.
	Written, Began time.Time
}

// Open opens the state file at path or makes one. Its folder is made if it is
// missing. now dates the name of a file that is put aside; what can be read there of
// the buckets in closing, whose records open nothing, is kept.
func Open(path string, now time.Time, closing ...string) (s *Store, err error) {
	if err := prepare(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	s = &Store{path: path, lock: lock, more: make(chan struct{}, 1)}
	err = s.inherit(path+".new", now, closing)
	if errors.Is(err, errNotWritten) {
		s.unwritten = err
		err = s.inherit(memory, now, closing)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// memory is the path of a new file that is in no folder.
const memory = ""

func (s *Store) database() *database { return s.db.Load() }

// asideTime dates the name of a file that is put aside.
const asideTime = "20060102T150405Z"

// inherit copies what the old file holds into a new one, which replaces it.
func (s *Store) inherit(created string, now time.Time, closing []string) (err error) {
	if err := s.begin(created); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.drop(s.database(), created))
		}
	}()
	switch err := s.copyFrom(s.path); {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		s.fresh = true
	case errors.Is(err, errNotWritten), errors.Is(err, errUnopened):
		return err
	default:
		if err := s.putAside(err, created, now, closing); err != nil {
			return err
		}
	}
	return s.install(created)
}

// putAside begins without the old file, which cannot be read for a reason, but for what
// closes.
func (s *Store) putAside(why error, created string, now time.Time, closing []string) error {
	s.fresh = true
	if err := s.start(created); err != nil {
		return err
	}
	n, err := s.rescue(s.path, closing)
	if err != nil {
		return err
	}
	damaged := s.path + ".damaged-" + now.UTC().Format(asideTime)
	if err := os.Rename(s.path, damaged); err != nil {
		return fmt.Errorf("put the unreadable state file aside: %w", err)
	}
	s.aside = fmt.Sprintf("the state file could not be read (%v): it is kept as %s, and relaygate begins without it", why, damaged)
	if n > 0 {
		s.aside += fmt.Sprintf(", but for %s of %s", authz.Count(n, "record"), strings.Join(closing, " and "))
	}
	return nil
}

// install puts the new file in its place.
func (s *Store) install(created string) (err error) {
	if created == memory {
		return nil
	}
	if err := os.Rename(created, s.path); err != nil {
		return fmt.Errorf("put the state file in its place: %w", err)
	}
	if s.file, err = os.Stat(s.path); err != nil {
		return fmt.Errorf("look at the state file: %w", err)
	}
	return syncFolder(s.path)
}

// begin makes a new file and takes it for the store's.
func (s *Store) begin(created string) error {
	if err := remove(created); err != nil {
		return fmt.Errorf("%w: remove the remains of an earlier start: %w", errNotWritten, err)
	}
	db, err := create(created)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", errNotWritten, err), remove(created))
	}
	s.db.Store(db)
	return nil
}

// drop gives a new file up: on a full disk another program needs its room.
func (s *Store) drop(db *database, created string) error {
	return errors.Join(db.Close(), remove(created))
}

// start throws the half-copied file away and begins another.
func (s *Store) start(created string) error {
	if err := s.database().Close(); err != nil {
		return fmt.Errorf("close the state file: %w", err)
	}
	return s.begin(created)
}

// Fresh says that nothing was known from before. Aside says in words why a
// file was put aside, "" if none was: then nothing is known but what closes.
func (s *Store) Fresh() bool   { return s.fresh }
func (s *Store) Aside() string { return s.aside }

// Kept is when the file was written last before it was opened, by the wall clock of
// then; zero if there was none.
func (s *Store) Kept() time.Time { return s.kept }

// Put keeps a copy of value as the record key of a bucket; Delete takes the
// record out. Neither waits for the disk.
func (s *Store) Put(bucket, key string, value []byte) { s.change(id{bucket, key}, value, false) }

// Delete is described with Put.
func (s *Store) Delete(bucket, key string) { s.change(id{bucket, key}, nil, true) }

func (s *Store) change(k id, value []byte, gone bool) {
	s.mu.Lock()
	if s.pending.n >= maxPending || len(s.pending.text)+len(value) > maxPendingBytes {
		s.stats.Lost++
	} else {
		s.pending.add(k, value, gone)
	}
	many := s.pending.n >= groupSize
	s.mu.Unlock()
	if many {
		select {
		case s.more <- struct{}{}:
		default:
		}
	}
}

// Run writes in groups until ctx is done. A write that fails is tried again
// with the next group and told by Stats; it ends nothing.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(groupEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.more:
		}
		_ = s.Flush() // told by Stats, as is the other
		if s.long() {
			_ = s.merge()
		}
	}
}

// Unwritten is an error where all is in memory yet, and so would be lost with it.
func (s *Store) Unwritten() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unwritten
}

// Stats tells how the store is.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	if s.unwritten != nil {
		st.LastError, st.Written = s.unwritten.Error(), s.kept
	}
	st.Pending, st.PendingBytes = s.pending.n+s.flying, len(s.pending.text)+s.flyingBytes
	return st
}

// Close writes what is pending and closes the file.
func (s *Store) Close() error {
	return errors.Join(s.Flush(), s.Unwritten(), s.database().Close(), s.lock.Close())
}

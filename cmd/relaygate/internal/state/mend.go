package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Mend makes the file anew where somebody took it away, put another in its place or
// spoiled it, or the disk does not read it, and says what it did; "" if all is well. It is made with all that it
// held. Where that cannot be read any more, empty is true: then it is for the caller to
// Put what it should hold.
func (s *Store) Mend(now time.Time) (done string, empty bool, err error) {
	if !s.merging.TryLock() {
		return "", false, nil // the next call will see; an order must not wait for a merge
	}
	defer s.merging.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	what, done := s.harm(), "it was made again"
	switch {
	case what == "" && !s.lost():
		return "", false, nil
	case what == "":
		what, done = "there was no memory for the state file", "it was opened again"
		err = s.reopen()
	default:
		empty, err = s.remake(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return "", false, s.failed(fmt.Errorf("%s: %w", what, err))
	}
	s.spoiled, s.unmapped, s.unwritten, s.stats.LastError = false, false, nil, ""
	return what + ": " + done, empty, nil
}

func (s *Store) lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unmapped
}

// reopen opens the file once more, in which all is well: where the kernel had no memory
// to map it as it grew, the database gave up the mapping that it had, for good.
func (s *Store) reopen() error {
	if err := s.database().Close(); err != nil {
		return err
	}
	db, err := create(s.path)
	if err != nil { // the next try finds the former one closed
		return fmt.Errorf("%w: %w", berrors.ErrDatabaseNotOpen, err)
	}
	s.db.Store(db)
	return nil
}

// harm says what is wrong with the file, "" if nothing is.
func (s *Store) harm() string {
	if s.file == nil {
		return "the start could not write the state file"
	}
	s.mu.Lock()
	spoiled := s.spoiled
	s.mu.Unlock()
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return "somebody removed the state file"
	case err == nil && !os.SameFile(info, s.file):
		return "somebody replaced the state file"
	case spoiled, err == nil && info.Size() < s.file.Size(): // by itself it only grows
		return "somebody, or the disk, spoiled the state file"
	}
	return ""
}

// remake puts a new file in its place; merging and writing are held.
func (s *Store) remake(now time.Time) (empty bool, err error) {
	if err := prepare(s.path); err != nil {
		return false, err
	}
	if err := s.lockAgain(); err != nil {
		return false, err
	}
	created := s.path + ".new"
	old, tail := s.database(), s.tail
	if s.file == nil {
		if err := room(s.path, old); err != nil {
			return false, err
		}
	}
	if err = s.begin(created); err == nil {
		s.tail = 0
		err = s.copyOpen(old)
		if err != nil && !errors.Is(err, errNotWritten) {
			empty = true
			err = s.start(created)
		}
	}
	if err == nil {
		err = s.keepOther(now)
	}
	if err == nil {
		err = s.install(created)
	}
	if err != nil {
		s.tail = tail
		if fresh := s.db.Swap(old); fresh != old {
			err = errors.Join(err, s.drop(fresh, created))
		}
		return false, err
	}
	go func() { _ = old.Close() }() // it waits for who reads in it, whom a file system may hold up
	return empty, nil
}

// room fails where a copy of a database has none: to find that by writing would take a
// full disk's last bytes, and again every time.
func room(path string, db *database) error {
	size := int64(0)
	err := db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
	var disk unix.Statfs_t
	if err == nil && unix.Statfs(filepath.Dir(path), &disk) == nil && size > int64(disk.Bfree)*disk.Bsize {
		return fmt.Errorf("%w: %w", errNotWritten, unix.ENOSPC)
	}
	return nil // else the copy will tell
}

// keepOther puts aside what is in the place of the file: it is somebody else's, or shows
// how the file was spoiled. Where all was in memory it is only older.
func (s *Store) keepOther(now time.Time) error {
	if s.file == nil {
		return nil
	}
	aside := s.path + ".replaced-" + now.UTC().Format(asideTime)
	if err := os.Rename(s.path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put what is there aside: %w", err)
	}
	return nil
}

// lockAgain takes the lock where its file went with the other: else it would keep
// nobody away.
func (s *Store) lockAgain() error {
	var mine, there unix.Stat_t
	if err := unix.Fstat(int(s.lock.Fd()), &mine); err != nil {
		return fmt.Errorf("look at the lock of the state file: %w", err)
	}
	if unix.Lstat(s.path+".lock", &there) == nil && there.Ino == mine.Ino && there.Dev == mine.Dev {
		return nil
	}
	lock, err := takeLock(s.path)
	if err != nil {
		return err
	}
	err = s.lock.Close()
	s.lock = lock
	return err
}

package state

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// database is one of bbolt, which has its file mapped: where the disk cannot read a page,
// or somebody took it away, it faults in the middle of whatever it does. That is an error
// here. But it keeps the locks then that it held, and whoever asks it again would wait for
// them for ever: so it is not asked again.
type database struct {
	*bbolt.DB
	file *os.File
	// unwritable: a transaction that writes has faulted. unreadable: one that reads did
	// before it had begun; another leaves no lock behind.
	unwritable, unreadable atomic.Bool
}

// errFaulted is about a file that is open, or made.
var errFaulted = errors.New("a page of it cannot be read, or is damaged")

// create makes an empty database with the mark of this program, or opens one.
func create(path string) (*database, error) {
	d := new(database)
	open := func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		if path == memory {
			f, err = inMemory()
		} else {
			f, err = openFile(path, flag, mode)
		}
		d.file = f
		return f, err
	}
	err := guarded(func() (err error) {
		d.DB, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: time.Second, FreelistType: bbolt.FreelistMapType, MaxSize: maxFile, OpenFile: open,
		})
		return err
	})
	if err != nil {
		_ = d.file.Close() // it has ended with the database, or is nil
		return nil, err
	}
	err = d.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(markBucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(markKey), mark())
	})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Update runs a transaction that writes.
func (d *database) Update(do func(*bbolt.Tx) error) error {
	if d.unwritable.Load() {
		return errFaulted
	}
	err := guarded(func() error { return d.DB.Update(do) })
	if errors.Is(err, errFaulted) {
		d.unwritable.Store(true)
	}
	return err
}

// View runs a transaction that reads.
func (d *database) View(do func(*bbolt.Tx) error) error {
	if d.unreadable.Load() {
		return errFaulted
	}
	begun := false
	err := guarded(func() error {
		return d.DB.View(func(tx *bbolt.Tx) error { begun = true; return do(tx) })
	})
	if errors.Is(err, errFaulted) && !begun {
		d.unwritable.Store(true)
		d.unreadable.Store(true)
	}
	return err
}

// Close closes the file, at least.
func (d *database) Close() error {
	if d.unwritable.Load() {
		return d.file.Close()
	}
	return d.DB.Close()
}

// guarded turns the database's panics about damaged pages, and faults of pages
// that the file no longer has or the disk cannot read, into errors.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case runtime.Error: // of words for programmers
			err = errFaulted
		default:
			err = fmt.Errorf("%w: %v", errFaulted, r)
		}
	}()
	return do()
}

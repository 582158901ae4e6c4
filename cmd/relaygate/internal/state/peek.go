package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Copy is a state file as it was at one moment, in memory.
type Copy struct {
	db   *bbolt.DB
	kept time.Time
	// tail is what the latest changes made of records, by bucket and key: nil of one that
	// they deleted.
	tail map[string]map[string][]byte
}

// Peek copies the state file at path, whether a daemon has it open or not: nothing is
// locked, written or put aside. A damaged record is found when it is visited. The error
// wraps fs.ErrNotExist where there is no such file, fs.ErrPermission where this user may
// not read it.
func Peek(path string) (*Copy, error) {
	// Root would believe what somebody else could have written.
	if err := errors.Join(private(filepath.Dir(path), unix.S_IFDIR), private(path, unix.S_IFREG)); err != nil {
		return nil, fmt.Errorf("the state file: %w", err)
	}
	file, kept, err := calm(path)
	if err != nil {
		return nil, fmt.Errorf("read the state file %s: %w", path, err)
	}
	c := &Copy{kept: kept, tail: make(map[string]map[string][]byte)}
	if err := guarded(func() error { return c.open(file) }); err != nil {
		if c.db != nil {
			err = errors.Join(err, c.Close())
		}
		return nil, fmt.Errorf("read the state file %s: %w", path, err)
	}
	return c, nil
}

// open opens the database in file, as copyFrom does.
func (c *Copy) open(file *os.File) (err error) {
	c.db, err = bbolt.Open(file.Name(), 0o600, &bbolt.Options{
		ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil },
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return c.db.View(func(tx *bbolt.Tx) error {
		err := checkTrees(file, tx)
		if err == nil {
			err = checkBegin(file, tx)
		}
		if err == nil {
			err = checkMark(tx)
		}
		if err == nil {
			err = eachPart(tx, c.note)
		}
		return err
	})
}

func (c *Copy) note(list []change) error {
	for _, ch := range list {
		b := c.tail[string(ch.bucket)]
		if b == nil {
			b = make(map[string][]byte)
			c.tail[string(ch.bucket)] = b
		}
		b[string(ch.key)] = ch.value
	}
	return nil
}

// Each is that of a Store, but for the order.
func (c *Copy) Each(bucket string, visit func(key string, value []byte) error) error {
	newer := c.tail[bucket]
	err := guarded(func() error {
		return c.db.View(func(tx *bbolt.Tx) error {
			return eachRecord(tx, bucket, func(key string, value []byte) error {
				if _, ok := newer[key]; ok {
					return nil
				}
				return visit(key, value)
			})
		})
	})
	for key, value := range newer {
		if err == nil && value != nil {
			err = visit(key, value)
		}
	}
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	return nil
}

// Kept is when the file was written last.
func (c *Copy) Kept() time.Time { return c.kept }

// Close gives the copy up.
func (c *Copy) Close() error { return c.db.Close() }

// calm copies the file at path into memory, as it was at one moment, and says when it
// was written last. Its database never writes a page that the last transaction uses, and
// commits the next one by a write to one of the first two pages: while these are as they
// were, so is all that they lead to.
func calm(path string) (copied *os.File, written time.Time, err error) {
	from, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, written, err
	}
	defer func() { _ = from.Close() }() // it was only read
	to, err := inMemory()
	if err != nil {
		return nil, written, err
	}
	const attempts = 10
	for range attempts {
		same, err := copyWhole(to, from)
		if err != nil {
			return nil, written, errors.Join(err, to.Close())
		}
		info, err := from.Stat()
		switch {
		case err != nil:
			return nil, written, errors.Join(err, to.Close())
		case info.Size() == 0:
			return nil, written, errors.Join(errEmpty, to.Close())
		case same:
			return to, info.ModTime(), nil
		}
	}
	return nil, written, errors.Join(errors.New("it is being written all the time"), to.Close())
}

// copyWhole reports whether the first pages stayed as they were meanwhile.
func copyWhole(to, from *os.File) (same bool, err error) {
	before, err := first(from)
	if err != nil {
		return false, err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	if _, err := io.Copy(to, io.LimitReader(from, maxFile)); err != nil {
		return false, err
	}
	after, err := first(from)
	return bytes.Equal(before, after), err
}

// first reads what the first two pages are in, however large these are.
func first(f *os.File) ([]byte, error) {
	const largest = 64 << 10 // page, of any architecture
	b := make([]byte, 2*largest)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// inMemory makes a file that nobody else sees.
func inMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("relaygate state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "state in memory"), nil
}

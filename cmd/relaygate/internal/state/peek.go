//go:build linux

package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Peek opens a copy, in memory, of the state file at path, whether a daemon has it open
// or not: nothing is locked, written or put aside. Put and Delete change the copy alone.
// The error wraps fs.ErrNotExist where there is no such file, fs.ErrPermission where
// this user may not read it.
func Peek(path string) (*Store, error) {
	// Root would believe what somebody else could have written.
	if err := errors.Join(private(filepath.Dir(path)), private(path)); err != nil {
		return nil, fmt.Errorf("the state file: %w", err)
	}
	old, written, err := calm(path)
	if err != nil {
		return nil, fmt.Errorf("read the state file %s: %w", path, err)
	}
	defer func() { _ = old.Close() }() // it was only read
	file, err := inMemory()
	if err != nil {
		return nil, err
	}
	db, err := create(file.Name(), func(string, int, os.FileMode) (*os.File, error) { return file, nil })
	if err != nil {
		return nil, fmt.Errorf("make a copy of the state file: %w", errors.Join(err, file.Close()))
	}
	s := &Store{path: path}
	s.db.Store(db)
	if err := s.copyFrom(again(old)); err != nil {
		return nil, errors.Join(fmt.Errorf("read the state file %s: %w", path, err), db.Close())
	}
	s.kept = written
	return s, nil
}

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
		if info, err := from.Stat(); same && err == nil {
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

// again opens a file in memory once more, for reading.
func again(f *os.File) opener {
	return func() (*os.File, error) { return os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) }
}

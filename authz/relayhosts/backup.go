package relayhosts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// BackupSuffix names the copy of what a file held before the first start.
const BackupSuffix = ".before-relaygate"

// sizeLimit bounds what is read of a file that somebody else wrote, in bytes.
const sizeLimit = 64 << 20

// backup keeps a copy of target, which path names, as it was before anything was written
// to it; of one that was, whose copy somebody took away, an empty one. The copy is made
// once, also of a missing or empty file: its presence tells later starts that what they
// find was written by an earlier run.
func backup(path, target string, ours []byte, written bool) (*Foreign, error) {
	copied := target + BackupSuffix
	if done, err := backedUp(target); done || err != nil {
		return nil, err
	}
	var old []byte
	if !written {
		var err error
		if old, err = readExisting(target, sizeLimit); err != nil {
			return nil, fmt.Errorf("back up %s: %w", path, err)
		}
	}
	if err := replace(copied, old, 0o600, atOnce); err != nil { // it is for nobody but us
		return nil, fmt.Errorf("back up %s: %w", path, err)
	}
	f := &Foreign{Path: path, Backup: copied}
	f.compare(old, ours)
	if f.Count == 0 {
		return nil, nil
	}
	return f, nil
}

// backedUp reports whether an earlier run has been at the file, which is no link.
func backedUp(target string) (bool, error) {
	_, err := os.Lstat(target + BackupSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the copy of %s: %w", target, err)
	}
	return true, nil
}

// errNoFile says that there is something which is no file.
var errNoFile = errors.New("it is not a regular file")

// equals reports whether there is a file at path and its content is data.
func equals(path string, data []byte) (bool, error) {
	held, err := readExisting(path, len(data))
	if errors.Is(err, errTooLong) {
		return false, nil
	}
	return held != nil && bytes.Equal(held, data), err
}

// errTooLong says that a file is longer than what is read of it.
var errTooLong = errors.New("it is too long for a list of addresses")

// readExisting is a file's content, not nil if the file exists; with errTooLong its
// first bytes, one more than limit.
func readExisting(path string, limit int) ([]byte, error) {
	// O_NONBLOCK: opening a pipe must not wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errNoFile, f.Close())
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1)) // never nil
	if err == nil && len(data) > limit {
		err = fmt.Errorf("%w: it has more than %d bytes", errTooLong, limit)
	}
	return data, errors.Join(err, f.Close())
}

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/lockfile"
)

// prepare makes the folder and refuses a file that somebody else could have
// written: it says who may relay.
func prepare(path string) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the state file's folder: %w", err)
	}
	if err := private(folder, unix.S_IFDIR); err != nil {
		return fmt.Errorf("the state file's folder: %w", err)
	}
	err := private(path, unix.S_IFREG)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the state file: %w", err)
	}
	return nil
}

// private says why path can be changed by other users, or is of another kind (S_IFREG or
// S_IFDIR), nil if neither is so.
func private(path string, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "look at", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != kind && kind == unix.S_IFREG:
		return fmt.Errorf("%s is no regular file", path)
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%s is no folder", path)
	case st.Uid != uint32(os.Geteuid()) && st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, who could let anybody relay: chown it to root", path, st.Uid)
	// Of a folder with the sticky bit, others cannot replace our files.
	case st.Mode&0o022 != 0 && (kind == unix.S_IFREG || st.Mode&unix.S_ISVTX == 0):
		return fmt.Errorf("%s can be written by other users, who could let anybody relay: chmod go-w it", path)
	}
	return nil
}

// takeLock locks the file beside path, which outlives each replacement of the
// state file.
func takeLock(path string) (*os.File, error) {
	lock, err := lockfile.Take(path + ".lock")
	if held := (*lockfile.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w: %s, process %s", ErrLocked, path, held.Process)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the state file: %w", err)
	}
	return lock, nil
}

func openFile(path string, flag int, mode os.FileMode) (*os.File, error) {
	return os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
}

// remove removes a new file, if it is there.
func remove(created string) error {
	if err := os.Remove(created); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncFolder makes a rename last (fsync(2)).
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(folder.Sync(), folder.Close())
	}
	if err != nil {
		return fmt.Errorf("sync the state file's folder: %w", err)
	}
	return nil
}

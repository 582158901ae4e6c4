package relayhosts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// suffix names the file that is written aside. It is always the same, so that
// what a killed process leaves is taken up by the next one.
const suffix = ".relaygate-new"

// defaultMode is the mode of a file that did not exist: every mail server's
// user must be able to read it.
const defaultMode fs.FileMode = 0o644

// Replace makes data the content of the file at path, as a whole or not at all.
// A symbolic link is followed to the file that it names, which need not exist; the
// file's owner, mode and list of rights are kept, but for the right of others to
// write. A file that can be written but not replaced (a mount point, a directory
// without write permission), or that has other names (hard links), which would keep
// the old content, is written in place: then a reader in that moment, or a crash, can
// see a part of it.
func Replace(path string, data []byte) error {
	return replace(path, data, defaultMode, atOnce)
}

// atOnce goes on with each step.
func atOnce(step) error { return nil }

// step names what replace does next, for tests that stop it there.
type step string

const (
	stepCreate   step = "create"
	stepWrite    step = "write"
	stepSync     step = "sync"
	stepRename   step = "rename"
	stepSyncDir  step = "sync directory"
	stepInPlace  step = "write in place"
	stepTruncate step = "truncate"
)

// replace gives a file that did not exist a mode. It asks before each step, and leaves
// everything as it is then if the answer is an error.
func replace(path string, data []byte, mode fs.FileMode, before func(step) error) error {
	target, err := resolve(path)
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	old, err := os.Stat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
		if _, err := os.Stat(filepath.Dir(target)); err != nil {
			return fmt.Errorf("replace %s: its directory must exist: %w", path, err)
		}
	case err != nil:
		return fmt.Errorf("replace %s: %w", path, err)
	case !old.Mode().IsRegular():
		return fmt.Errorf("replace %s: %s: %w", path, target, errNoFile)
	}
	linked := hasOtherNames(old)
	if !linked {
		err = swap(target, old, data, mode, before)
	}
	if linked || old != nil && inPlaceOnly(err) {
		err = overwrite(target, data, before)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func hasOtherNames(file fs.FileInfo) bool {
	if file == nil {
		return false
	}
	st, ok := file.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 1
}

// inPlaceOnly reports whether err means that the file can be written but not
// replaced: it is a mount point (EBUSY), or its directory cannot be written, or
// its owner or list of rights cannot be given to another file (EPERM, ERANGE), or the
// disk is full, or fails: then what cannot be written is emptied at least.
func inPlaceOnly(err error) bool {
	for _, e := range []error{unix.EBUSY, unix.EROFS, unix.EACCES, unix.EPERM, unix.ERANGE, unix.ENOSPC, unix.EDQUOT, unix.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// swap writes a new file beside target and renames it.
func swap(target string, old fs.FileInfo, data []byte, mode fs.FileMode, before func(step) error) error {
	if err := before(stepCreate); err != nil {
		return err
	}
	aside := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+suffix)
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// O_EXCL: never write through a link that somebody put there.
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = fill(f, target, old, data, mode, before)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = before(stepRename)
	}
	if err == nil {
		err = os.Rename(aside, target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	if err := before(stepSyncDir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

// fill gives f the content, and what target, which is old, has of an owner, rights and
// mode, else this mode, and makes it durable.
func fill(f *os.File, target string, old fs.FileInfo, data []byte, mode fs.FileMode, before func(step) error) error {
	if err := before(stepWrite); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if old != nil {
		mode = old.Mode().Perm() &^ writableByOthers
		if st, ok := old.Sys().(*syscall.Stat_t); ok {
			if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return fmt.Errorf("keep the owner: %w", err)
			}
		}
		if err := keepAttributes(f, target); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("keep the mode: %w", err)
	}
	if err := before(stepSync); err != nil {
		return err
	}
	return f.Sync()
}

// attributes say who may read a file besides its owner and mode: a list (acl(5)), and the
// labels of security modules. A mail server that cannot read the file any more may refuse
// all mail.
var attributes = []string{"system.posix_acl_access", "security.selinux", "security.SMACK64"}

func keepAttributes(f *os.File, target string) error {
	var was, is [4096]byte // 500 users
	for _, name := range attributes {
		n, err := unix.Getxattr(target, name, was[:])
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if have, not := unix.Fgetxattr(int(f.Fd()), name, is[:]); err == nil && not == nil && bytes.Equal(is[:have], was[:n]) {
			continue
		}
		if err == nil {
			err = unix.Fsetxattr(int(f.Fd()), name, was[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("keep the attribute %s: %w", name, err)
		}
	}
	return nil
}

// overwrite writes into the file itself, under the lock that careful readers
// take. It is emptied first: a part of the new list keeps somebody out for a
// moment, a mixture of old and new lines would let in whose grant is gone.
func overwrite(target string, data []byte, before func(step) error) (err error) {
	if err := before(stepTruncate); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // it is resolved
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Anybody who may read the file can hold a lock for ever: do not wait.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := before(stepInPlace); err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Mode()&writableByOthers != 0 {
		_ = f.Chmod(info.Mode().Perm() &^ writableByOthers) // where it stays Others says so
	}
	if _, err := f.Write(data); err != nil {
		// Half a line can be somebody else's address.
		return errors.Join(err, f.Truncate(0))
	}
	return f.Sync()
}

// resolve follows path to the file that it names. filepath.EvalSymlinks would
// fail on a link to a file that does not exist yet. No link is followed that another user
// than root made: of root's files he could have any written.
func resolve(path string) (string, error) {
	for range 40 { // as many as the kernel follows (path_resolution(7))
		link, err := os.Readlink(path)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err != nil {
			return "", err
		}
		if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
			return "", fmt.Errorf("%s is a link of user %d, who could have any file written: chown -h it to root", path, st.Uid)
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = link
	}
	return "", unix.ELOOP
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Package lockfile lets one process at a time have something, by a lock on a file
// beside it.
package lockfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HeldError says that another process holds the lock, and which.
type HeldError struct{ Process string }

func (e *HeldError) Error() string { return "process " + e.Process + " holds the lock" }

// sharedFor is for how long somebody may look who holds the lock: microseconds, or a
// while longer without a processor.
const sharedFor = 250 * time.Millisecond

// Take makes the file at path, if it is missing, and locks it until it is closed. It
// follows no link, and writes the process's number there for the other one's message:
// with no room for that the lock holds all the same.
func Take(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EROFS) { // one that is there can be locked
		if there, absent := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0); absent == nil {
			lock, err = there, nil
		}
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for begin := time.Now(); errors.Is(err, unix.EWOULDBLOCK) && time.Since(begin) < sharedFor; {
		<-time.After(sharedFor / 50)
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &HeldError{Process: said(lock)}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if lock.Truncate(0) == nil {
		fmt.Fprintln(lock, os.Getpid())
	}
	return lock, nil
}

// Holder is the number of the process that holds the lock of the file at path, as it
// wrote it there, "" if none does or that cannot be told. To see that, it shares the lock
// for a moment, for which Take waits: the kernel lists no locks of other PID namespaces
// (proc_locks(5)).
func Holder(path string) string {
	lock, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = lock.Close() }() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return ""
	}
	return said(lock)
}

// said is what the process that holds a lock wrote.
func said(lock io.Reader) string {
	number := make([]byte, 20)
	n, _ := lock.Read(number)
	return cmp.Or(strings.TrimSpace(string(number[:n])), "unknown")
}

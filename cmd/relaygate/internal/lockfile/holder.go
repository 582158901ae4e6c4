package lockfile

import (
	"cmp"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

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

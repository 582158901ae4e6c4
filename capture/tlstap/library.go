package tlstap

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
)

// Bounds and times of what is attached.
const (
	libraryLimit = 64 // library files attached at a time
	// unusedAfter is how long a library stays attached that nobody can use
	// any more.
	unusedAfter = time.Minute
	// A failed attach is tried again after retryFirst, then after twice the
	// time as before, up to retryLast.
	retryFirst = 5 * time.Second
	retryLast  = 5 * time.Minute
)

// libraryKey tells libraries apart.
type libraryKey struct {
	device  uint64 // 0 where it says nothing
	inode   uint64
	size    int64
	changed unix.Timespec // the contents
}

// same says whether two are one file. Containers show a file of their common image,
// or of the host, on a device each (overlayfs), and probes are on the file itself:
// so there the device says nothing. Elsewhere it does: a snapshot of a file system
// has other files with the same inodes.
func (k libraryKey) same(o libraryKey) bool {
	if k.device == 0 || o.device == 0 {
		k.device, o.device = 0, 0
	}
	return k == o
}

func keyOf(f *os.File) (libraryKey, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return libraryKey{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return libraryKey{}, fmt.Errorf("stat the file system of %s: %w", f.Name(), err)
	}
	key := libraryKey{st.Dev, st.Ino, st.Size, st.Mtim}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		key.device = 0
	}
	return key, nil
}

// library is a file with TLS functions that a server's family uses.
type library struct {
	inode uint64
	path  string // as the first process that was seen with it sees it
	image image
	file  *os.File // keeps the inode

	// users are the heads of the families that use it.
	users map[bpf.ServerProcess]bool
	// expected are the heads of families that may come to use it.
	expected map[bpf.ServerProcess]bool
	used     time.Time // when it was last needed

	probes Probes // nil while it is not attached
	err    error  // why not
	retry  time.Time
	wait   time.Duration
	found  bool // a handshake was recognised in it
}

// attach tries once, if it is time.
func (l *library) attach(tap Tap, now time.Time, log *slog.Logger) {
	if l.probes != nil || now.Before(l.retry) {
		return
	}
	probes, err := tap.AttachLibrary(bpf.Library{
		Path: selfPath(int(l.file.Fd())), Kind: l.image.kind, Functions: l.image.functions,
	})
	if err != nil {
		l.err = fmt.Errorf("%s cannot be watched: %w", l.path, err)
		l.wait = min(max(retryFirst, 2*l.wait), retryLast)
		l.retry = now.Add(l.wait)
		log.Warn("a TLS library is not seen", "library", l.path, "error", err, "again", l.wait)
		return
	}
	l.probes, l.err, l.wait = probes, nil, 0
	log.Info("a TLS library is watched", "library", l.path)
}

// close detaches it.
func (l *library) close(log *slog.Logger) {
	if l.probes != nil {
		if err := l.probes.Close(); err != nil {
			log.Warn("a TLS library cannot be left", "library", l.path, "error", err)
		} else {
			log.Info("a TLS library is watched no more", "library", l.path)
		}
	}
	_ = l.file.Close() // it was only read
}

// needed says whether somebody can still call it: it is mapped now (then it was
// used at this scan), or a server that used it lives and could start a process
// with it again, as servers do that have one process per connection.
func (l *library) needed(now time.Time, heads map[bpf.ServerProcess]*family) bool {
	if l.used.Equal(now) {
		return true
	}
	for _, set := range []map[bpf.ServerProcess]bool{l.users, l.expected} {
		maps.DeleteFunc(set, func(head bpf.ServerProcess, _ bool) bool { return heads[head] == nil })
	}
	if len(l.users)+len(l.expected) > 0 && !deleted(l.file) {
		l.used = now
	}
	return now.Sub(l.used) < unusedAfter
}

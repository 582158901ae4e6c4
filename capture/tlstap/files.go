package tlstap

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"relaygate/bpf"
)

// What is remembered about files.
const (
	knownLimit = 1 << 14 // files
	// keepScans is for how many scans a file is remembered that no process
	// has: servers with a process per connection come back with it. After as
	// many, a file that could not be read is tried again.
	keepScans = 32
)

// errTooManyLibraries says that libraryLimit was reached.
var errTooManyLibraries = fmt.Errorf("servers use more than %d TLS libraries", libraryLimit)

// file looks into a file that a process executes, once; nil if there is no room
// to remember it.
func (f *Finder) file(pid int, m mapped) *knownFile {
	if k := f.known[m.id]; k != nil && (k.err == nil || f.scans < k.looked+keepScans) {
		return k
	}
	if len(f.known) == knownLimit {
		return nil
	}
	k := &knownFile{name: path.Base(strings.TrimSuffix(m.path, " (deleted)")), looked: f.scans, seen: f.scans}
	f.known[m.id] = k
	handle, err := openMapped(f.proc, pid, m)
	if err != nil {
		k.err = err
		return k
	}
	img, err := inspect(handle)
	k.goProgram = img.goProgram
	if err == nil && img.kind == 0 && k.namedTLS() {
		err = bpf.ErrNoFunctions
	}
	if err != nil {
		k.err = fmt.Errorf("%s cannot be looked into: %w", m.path, err)
	}
	if img.kind == 0 {
		_ = handle.Close() // it was only read
		return k
	}
	k.library, err = f.library(m.path, img, handle)
	if err != nil {
		k.err = err
	}
	return k
}

// library makes the library of a file, or finds it: it may be known from another
// path. The file is the library's then, or closed.
func (f *Finder) library(path string, img image, handle *os.File) (*library, error) {
	key, err := keyOf(handle)
	var l *library
	for known, candidate := range f.libraries {
		if err == nil && known.same(key) {
			l = candidate
		}
	}
	if err == nil && l == nil && len(f.libraries) >= libraryLimit {
		err = fmt.Errorf("%s is not watched: %w", path, errTooManyLibraries)
	}
	if err != nil || l != nil {
		_ = handle.Close() // it was only read
		return l, err
	}
	l = &library{
		inode: key.inode, path: strings.TrimSuffix(path, " (deleted)"), image: img, file: handle,
		users: make(map[bpf.ServerProcess]bool), expected: make(map[bpf.ServerProcess]bool),
	}
	f.libraries[key] = l
	return l, nil
}

// attach attaches what is not yet.
func (f *Finder) attach(now time.Time) {
	defer f.busy.Store(nil)
	for _, l := range f.libraries {
		f.busy.Store(&busy{l.path, time.Now()})
		l.attach(f.tap, now, f.log)
		if l.probes != nil {
			l.found = l.probes.Recognised()
		}
	}
}

// leaveOverwritten leaves the libraries whose files were overwritten in place, so that
// they are looked into anew. With each probe the kernel keeps the instruction that was
// there when it was made, and has every process that maps the file later run that
// instead of what is there now.
func (f *Finder) leaveOverwritten() {
	for key, l := range f.libraries {
		if is, err := keyOf(l.file); err == nil && is == key {
			continue
		}
		f.leave(key, l)
		for _, p := range f.processes {
			if slices.ContainsFunc(p.files, func(k *knownFile) bool { return k.library == l }) {
				p.size = 0 // its mappings are read again
			}
		}
	}
}

// leave detaches from a library and forgets it.
func (f *Finder) leave(key libraryKey, l *library) {
	l.close(f.log)
	delete(f.libraries, key)
	maps.DeleteFunc(f.known, func(_ fileID, k *knownFile) bool { return k.library == l })
}

// forget drops what no family has any more.
func (f *Finder) forget(now time.Time, families map[bpf.ServerProcess]*family) {
	for pid, p := range f.processes {
		if p.seen != f.scans {
			delete(f.processes, pid)
		}
	}
	for id, k := range f.known {
		if k.library == nil && f.scans >= k.seen+keepScans {
			delete(f.known, id)
		}
	}
	maps.DeleteFunc(f.expected, func(head bpf.ServerProcess, _ uint64) bool { return families[head] == nil })
	for key, l := range f.libraries {
		if !l.needed(now, families) {
			f.leave(key, l)
		}
	}
}

package tlstap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
)

// libraryFolders are where distributions keep libraries.
var libraryFolders = []string{
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
	"/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/lib",
	"/usr/local/lib", "/usr/local/lib64",
}

const (
	folderLimit   = 1 << 15 // names of a folder that are read
	expectedLimit = 4       // libraries that are expected of one server
)

// expect attaches to the TLS libraries that are installed where a server sees
// them, until it is known which of them it uses. Dovecot and Courier start a
// process that maps one only when a client is there, which is too late to see
// this client's login.
func (f *Finder) expect(fam *family, now time.Time) {
	_, read := f.history(fam.head)
	if read && f.uses(fam.head) || fam.explained() {
		for _, l := range f.libraries {
			delete(l.expected, fam.head)
		}
		return
	}
	if f.expected[fam.head] != 0 && f.scans < f.expected[fam.head]+keepScans {
		return
	}
	f.expected[fam.head] = f.scans
	root, err := unix.Open(filepath.Join(f.proc, strconv.Itoa(int(fam.head.PID)), "root"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return // then nothing is expected
	}
	defer func() { _ = unix.Close(root) }() // nothing was written
	found := 0
	for _, folder := range libraryFolders {
		for _, name := range tlsNames(root, folder) {
			if found < expectedLimit && f.expectFile(root, path.Join(folder, name), fam.head, now) {
				found++
			}
		}
	}
}

// uses says whether a member was seen with a library. Who was read without one
// has it in processes that init adopts, as Courier for STARTTLS: what is expected
// of it stays watched.
func (f *Finder) uses(head bpf.ServerProcess) bool {
	for _, l := range f.libraries {
		if l.users[head] {
			return true
		}
	}
	return false
}

// explained says whether a member has a TLS library that cannot be watched
// instead.
func (fam *family) explained() bool {
	for _, p := range fam.members {
		for _, k := range p.files {
			if k.goProgram || k.otherLibrary() != "" {
				return true
			}
		}
	}
	return false
}

// expectFile makes a file one that is expected of a server, if it is new.
func (f *Finder) expectFile(root int, name string, head bpf.ServerProcess, now time.Time) bool {
	handle, err := openIn(root, name, unix.O_PATH)
	if err != nil {
		return false
	}
	file, err := openRegular(selfPath(int(handle.Fd())), 0)
	_ = handle.Close() // nothing was written
	if err != nil {
		return false
	}
	img, err := inspect(file)
	if err != nil || img.kind == 0 {
		_ = file.Close() // it was only read
		return false
	}
	l, err := f.library(name, img, file)
	if err != nil || l.expected[head] {
		return false
	}
	l.expected[head], l.used = true, now
	return true
}

// tlsNames lists the libraries of a folder that can be watched, by name.
func tlsNames(root int, folder string) []string {
	dir, err := openIn(root, folder, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }() // it was only read
	var names []string
	for range folderLimit / 1024 {
		some, err := dir.Readdirnames(1024)
		for _, name := range some {
			if strings.HasPrefix(name, "libssl.so.") || strings.HasPrefix(name, "libgnutls.so.") {
				names = append(names, name)
			}
		}
		if err != nil || len(names) > expectedLimit*4 {
			if err != nil && !errors.Is(err, io.EOF) {
				return nil
			}
			break
		}
	}
	return names
}

// openIn opens a path as a process with this root would: links do not lead out.
func openIn(root int, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

package tlstap

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/capture/sockdiag"
)

var must = bpftest.Must

const here = 4026531840

var (
	imaps = netip.MustParseAddrPort("192.0.2.1:993")
	pop3s = netip.MustParseAddrPort("192.0.2.1:995")
)

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func connection() authz.Conn {
	return authz.Conn{Client: netip.MustParseAddrPort("198.51.100.7:50000"), Server: imaps, Cookie: 1, Netns: here}
}

// fakeTap remembers what it was told.
type fakeTap struct {
	mu       sync.Mutex
	servers  []bpf.ServerProcess
	told     int
	tellErr  error
	err      error // of attaching
	tried    int   // attaches
	attached []*fakeProbes
}

func (f *fakeTap) SetServers(list []bpf.ServerProcess) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers, f.told = slices.Clone(list), f.told+1
	return f.tellErr
}

func (f *fakeTap) AttachLibrary(l bpf.Library) (Probes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	if f.err != nil {
		return nil, f.err
	}
	info, err := os.Stat(l.Path)
	if err != nil {
		return nil, err
	}
	p := &fakeProbes{tap: f, library: l, inode: info.Sys().(*syscall.Stat_t).Ino}
	f.attached = append(f.attached, p)
	return p, nil
}

// inodes are the files that are attached to.
func (f *fakeTap) inodes() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []uint64
	for _, p := range f.attached {
		all = append(all, p.inode)
	}
	slices.Sort(all)
	return all
}

// offsets are those where a function is watched in a file.
func (f *fakeTap) offsets(inode uint64, name string) []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []uint64
	for _, p := range f.attached {
		if p.inode == inode {
			all = append(all, p.library.Functions[name].Offset)
		}
	}
	return all
}

func (f *fakeTap) heads() []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []uint32
	for _, s := range f.servers {
		all = append(all, s.PID)
	}
	slices.Sort(all)
	return all
}

type fakeProbes struct {
	tap     *fakeTap
	library bpf.Library
	inode   uint64
	found   bool
}

func (p *fakeProbes) Recognised() bool { return p.found }

func (p *fakeProbes) Close() error {
	p.tap.mu.Lock()
	defer p.tap.mu.Unlock()
	i := slices.Index(p.tap.attached, p)
	if i < 0 {
		return errors.New("closed twice")
	}
	p.tap.attached = slices.Delete(p.tap.attached, i, i+1)
	return nil
}

// fakeTables has listeners that are all believed.
type fakeTables struct {
	mu        sync.Mutex
	listeners []sockdiag.Listener
	changed   chan struct{}
}

func (f *fakeTables) Servers() []sockdiag.Listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listeners
}

func (f *fakeTables) Owners(server netip.AddrPort, netns uint64) []sockdiag.Process {
	var all []sockdiag.Process
	for _, l := range f.Servers() {
		if l.Local == server && l.Netns == netns {
			all = append(all, l.Processes...)
		}
	}
	return all
}

func (f *fakeTables) Check(server netip.AddrPort, netns uint64) (bool, string) {
	if len(f.Owners(server, netns)) == 0 {
		return false, "nobody is known to listen"
	}
	return true, ""
}

func (f *fakeTables) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeTables) set(listeners ...sockdiag.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners = listeners
	close(f.changed)
	f.changed = make(chan struct{})
}

// held is a listener that processes hold; they start at startOf(pid).
func held(local netip.AddrPort, inode uint32, pids ...int) sockdiag.Listener {
	l := sockdiag.Listener{Netns: here, Socket: sockdiag.Socket{Local: local, Inode: inode}}
	for _, pid := range pids {
		l.Processes = append(l.Processes, sockdiag.Process{PID: pid, Start: startOf(pid), Program: "maild"})
	}
	return l
}

func startOf(pid int) uint64 { return uint64(1000 + pid) }

// world is a host in a folder.
type world struct {
	t      *testing.T
	proc   string
	root   string // of all processes
	tap    *fakeTap
	tables *fakeTables
	finder *Finder
	now    time.Time
	sizes  map[int]int
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, proc: t.TempDir(), root: t.TempDir(), tap: &fakeTap{}, tables: &fakeTables{changed: make(chan struct{})},
		now: time.Now(), sizes: make(map[int]int),
	}
	f, err := New(Options{Tap: w.tap, Tables: w.tables, Proc: w.proc, Log: silent()})
	must(t, err)
	w.finder = f
	t.Cleanup(f.detach)
	return w
}

func (w *world) write(path, text string) {
	w.t.Helper()
	path = filepath.Join(w.proc, path)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
}

// process makes or changes a process that executes files: each time it has
// another size.
func (w *world) process(pid, parent int, name, cgroup string, files ...string) {
	w.t.Helper()
	w.sizes[pid] += 4096
	dir := strconv.Itoa(pid)
	w.write(dir+"/stat", fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d %d 300 0\n",
		pid, name, parent, startOf(pid), w.sizes[pid]))
	w.write(dir+"/cgroup", "1:name=systemd:"+cgroup+"\n0::/\n")
	var maps strings.Builder
	for i, path := range files {
		var st syscall.Stat_t
		must(w.t, syscall.Stat(path, &st))
		fmt.Fprintf(&maps, "%x-%x r-xp 00001000 fe:00 %d      %s\n", i, i+1, st.Ino, w.inside(path))
	}
	w.write(dir+"/maps", maps.String())
	must(w.t, os.RemoveAll(filepath.Join(w.proc, dir, "root")))
	must(w.t, os.Symlink(w.root, filepath.Join(w.proc, dir, "root")))
}

func (w *world) end(pid int) {
	w.t.Helper()
	must(w.t, os.RemoveAll(filepath.Join(w.proc, strconv.Itoa(pid))))
}

// library makes a file with functions in a folder of its own.
func (w *world) library(name string, symbols ...symbol) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.root, "")
	must(w.t, err)
	return w.install(filepath.Join(dir, name), symbols...)
}

// inside is the path that the processes see.
func (w *world) inside(path string) string { return strings.TrimPrefix(path, w.root) }

// install makes a library at a path.
func (w *world) install(path string, symbols ...symbol) string {
	w.t.Helper()
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, crafted{symbols: symbols}.bytes(w.t), 0o644))
	return path
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(path, &st))
	return st.Ino
}

// scan scans after some time.
func (w *world) scan(d time.Duration) {
	w.now = w.now.Add(d)
	w.finder.scan(w.now, false)
}

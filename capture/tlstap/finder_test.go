package tlstap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf"
)

// want compares what is attached, by path.
func (w *world) want(paths ...string) {
	w.t.Helper()
	var inodes []uint64
	for _, p := range paths {
		inodes = append(inodes, inode(w.t, p))
	}
	slices.Sort(inodes)
	if got := w.tap.inodes(); !slices.Equal(got, inodes) {
		w.t.Errorf("attached to %v, want %v", got, inodes)
	}
}

func TestHeads(t *testing.T) {
	const imap, pop3 = 1, 2
	for _, test := range []struct {
		name    string
		parents map[int]int
		holds   map[uint32][]int // listener to processes
		want    []uint32
	}{
		{"nobody", nil, nil, nil},
		{"one that has ended", nil, map[uint32][]int{imap: {10}}, nil},
		{"init", map[int]int{1: 0}, map[uint32][]int{imap: {1}}, nil},
		{"init and a server", map[int]int{1: 0, 10: 1}, map[uint32][]int{imap: {1, 10}}, []uint32{10}},
		{"master and workers", map[int]int{1: 0, 10: 1, 11: 10, 12: 10}, map[uint32][]int{imap: {10, 11, 12}}, []uint32{10}},
		{"workers without a master", map[int]int{1: 0, 11: 1, 12: 1}, map[uint32][]int{imap: {11, 12}}, []uint32{11, 12}},
		{"the worker holds less", map[int]int{10: 1, 11: 10}, map[uint32][]int{imap: {10, 11}, pop3: {10}}, []uint32{10}},
		{"the worker holds more", map[int]int{10: 1, 11: 10}, map[uint32][]int{imap: {10, 11}, pop3: {11}}, []uint32{10, 11}},
		{"each another", map[int]int{10: 1, 11: 10}, map[uint32][]int{imap: {10}, pop3: {11}}, []uint32{10, 11}},
		{"a grandchild", map[int]int{10: 1, 11: 10, 12: 11}, map[uint32][]int{imap: {10, 12}}, []uint32{10}},
		{"parents in a circle", map[int]int{10: 11, 11: 10}, map[uint32][]int{imap: {10}}, []uint32{10}},
		{"SO_REUSEPORT", map[int]int{10: 1, 20: 1}, map[uint32][]int{imap: {10}, pop3: {20}}, []uint32{10, 20}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			for pid, parent := range test.parents {
				w.process(pid, parent, "maild", "/")
			}
			for inode, pids := range test.holds {
				w.tables.listeners = append(w.tables.listeners, held(imaps, inode, pids...))
			}
			w.finder.follow()
			if got := w.tap.heads(); !slices.Equal(got, test.want) {
				t.Errorf("heads %v, want %v", got, test.want)
			}
			w.scan(0)
			if got := w.tap.heads(); !slices.Equal(got, test.want) || w.tap.told != 1 {
				t.Errorf("told %d times, heads %v, want %v", w.tap.told, got, test.want)
			}
			w.scan(interval)
			if w.tap.told != 1 {
				t.Error("told the same again")
			}
		})
	}
}

// TestReadingThatHangsIsSeen: whoever asks is told whose mappings cannot be read, or which
// library not be attached to, for as long as that is so.
func TestReadingThatHangsIsSeen(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/")
	w.tables.listeners = append(w.tables.listeners, held(imaps, 1, 10))
	maps := filepath.Join(w.proc, "10", "maps")
	must(t, os.Remove(maps))
	must(t, syscall.Mkfifo(maps, 0o600))
	began, ended := time.Now(), make(chan struct{})
	go func() { defer close(ended); w.scan(0) }()
	locked, err := os.OpenFile(maps, os.O_WRONLY, 0) // it waits for the reader
	must(t, err)
	if what, since, ok := w.finder.Busy(); what != "process 10" || since.Before(began) || !ok {
		t.Errorf("busy with %q since %v, %v", what, since, ok)
	}
	must(t, locked.Close())
	<-ended
	if what, _, ok := w.finder.Busy(); ok {
		t.Errorf("busy still with %q", what)
	}
}

// nosyTap asks what the finder is about while it attaches.
type nosyTap struct {
	*fakeTap
	ask func()
}

func (n nosyTap) AttachLibrary(l bpf.Library) (Probes, error) {
	n.ask()
	return n.fakeTap.AttachLibrary(l)
}

func TestAttachingThatHangsIsSeen(t *testing.T) {
	w := newWorld(t)
	ssl, got := w.library("libssl.so.3", openSSL...), ""
	w.process(10, 1, "maild", "/", ssl)
	w.tables.listeners = append(w.tables.listeners, held(imaps, 1, 10))
	w.finder.tap = nosyTap{w.tap, func() { got, _, _ = w.finder.Busy() }}
	w.scan(0)
	w.want(ssl)
	if want := w.inside(ssl); got != want {
		t.Errorf("busy with %q, want %q", got, want)
	}
	if what, _, ok := w.finder.Busy(); ok {
		t.Errorf("busy still with %q", what)
	}
}

func TestReusedProcessIDIsNoServer(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/", w.library("libssl.so.3", openSSL...))
	l := held(imaps, 1, 10)
	l.Processes[0].Start++ // the tables saw another
	w.tables.set(l)
	w.scan(0)
	if got := w.tap.heads(); got != nil {
		t.Errorf("heads are %v", got)
	}
	w.want()
}

func TestAttachesWhatTheFamilyUses(t *testing.T) {
	w := newWorld(t)
	ssl, private := w.library("libssl.so.3", openSSL...), w.library("libssl.so.3", openSSL...)
	gnu := w.library("libgnutls.so.30", function("gnutls_record_recv", codeAddr), function("gnutls_record_send", codeAddr))
	static := w.library("maild", openSSL...)
	foreign := w.library("libssl.so.1.1", openSSL...)
	other := w.library("libc.so.6", function("main", codeAddr))
	w.process(10, 1, "maild", "/", other)
	w.process(11, 10, "login", "/", other, ssl)
	w.process(12, 11, "proxy", "/", gnu, ssl)
	w.process(13, 10, "static", "/", static)
	w.process(20, 1, "httpd", "/", foreign, ssl)
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	w.want(ssl, gnu, static)

	w.process(11, 10, "login", "/", other, ssl, private) // dlopen
	w.scan(interval)
	w.want(ssl, gnu, static, private)
	if w.tap.tried != 4 {
		t.Errorf("%d attaches, want one for each file", w.tap.tried)
	}
}

func TestLibraryGoes(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(w *world, ssl string)
		stay bool
	}{
		{"nothing", func(*world, string) {}, true},
		// couriertls comes with a connection and goes with it.
		{"the process that used it", func(w *world, _ string) { w.end(11) }, true},
		{"the process, and an upgrade", func(w *world, ssl string) { w.end(11); _ = os.Remove(ssl) }, false},
		{"an upgrade only", func(_ *world, ssl string) { _ = os.Remove(ssl) }, true},
		{"the listener", func(w *world, _ string) { w.tables.set() }, false},
		{"the server", func(w *world, _ string) { w.end(10); w.end(11); w.tables.set() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			ssl := w.library("libssl.so.3", openSSL...)
			w.process(10, 1, "maild", "/")
			w.process(11, 10, "login", "/", ssl)
			w.tables.set(held(imaps, 1, 10))
			w.scan(0)
			if len(w.tap.inodes()) != 1 {
				t.Fatal("not attached")
			}
			test.do(w, ssl)
			w.scan(interval)
			if len(w.tap.inodes()) != 1 {
				t.Error("detached at once")
			}
			w.scan(unusedAfter)
			w.scan(unusedAfter)
			if got := len(w.tap.inodes()) == 1; got != test.stay {
				t.Errorf("still attached: %v, want %v", got, test.stay)
			}
			if !test.stay && len(w.finder.libraries) != 0 {
				t.Error("the library is remembered")
			}
		})
	}
}

func TestAttachIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/", w.library("libssl.so.3", openSSL...))
	w.tables.set(held(imaps, 1, 10))
	w.tap.err = errors.New("operation not permitted")
	w.scan(0)
	for range 100 {
		w.scan(interval)
	}
	if w.tap.tried < 4 || w.tap.tried > 10 {
		t.Errorf("tried %d times in %v", w.tap.tried, 100*interval)
	}
	if s := w.finder.Coverage(); len(s) != 1 || s[0].Seen() || !strings.Contains(s[0].Why, "operation not permitted") {
		t.Errorf("coverage is %+v", s)
	}
	w.tap.err = nil
	w.scan(retryLast)
	if s := w.finder.Coverage(); len(s) != 1 || !s[0].Seen() || s[0].Why != "" || len(w.tap.inodes()) != 1 {
		t.Errorf("coverage is %+v", s)
	}
}

func TestServersAreToldAgainAfterAnError(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/", w.library("libssl.so.3", openSSL...))
	w.tables.set(held(imaps, 1, 10))
	w.tap.tellErr = errors.New("map is full")
	w.scan(0)
	if why := w.finder.Explain(connection()); !strings.Contains(why, "map is full") {
		t.Errorf("explained by %q", why)
	}
	if ok, _, _ := w.finder.Believe(connection(), 10, 10); ok {
		t.Error("believed a process that the kernel was not told")
	}
	if all := w.finder.Servers(); len(all) != 1 || all[0].Seen() || !strings.Contains(all[0].Why, "map is full") {
		t.Errorf("coverage is %+v", all)
	}
	w.tap.tellErr = nil
	w.scan(interval)
	if ok, _, reason := w.finder.Believe(connection(), 10, 10); !ok || w.tap.told != 2 {
		t.Errorf("told %d times, not believed because %s", w.tap.told, reason)
	}
}

func TestLibrariesAreBounded(t *testing.T) {
	w := newWorld(t)
	var files []string
	for range libraryLimit + 3 {
		files = append(files, w.library("libssl.so.3", openSSL...))
	}
	w.process(10, 1, "maild", "/", files...)
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	if got := len(w.tap.inodes()); got != libraryLimit {
		t.Errorf("attached to %d files, want %d", got, libraryLimit)
	}
	if s := w.finder.Coverage()[0]; s.Seen() || !strings.Contains(s.Why, "more than 64 TLS") {
		t.Errorf("seen %v, because %q", s.Seen(), s.Why)
	}
}

func TestProcessesHaveTheirTurn(t *testing.T) {
	w := newWorld(t)
	for i := range mapsPerScan + 9 {
		w.process(100+i, 100, "login", "/")
	}
	last := w.library("libssl.so.3", openSSL...)
	w.process(100, 1, "maild", "/")
	w.process(100+mapsPerScan+9, 100, "login", "/", last)
	w.tables.set(held(imaps, 1, 100))
	w.scan(0)
	w.scan(interval)
	w.want(last)
}

func TestDeadFilesAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/", w.library("libc.so.6"))
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	if len(w.finder.known) != 1 || len(w.finder.processes) != 1 {
		t.Fatalf("knows %d files, %d processes", len(w.finder.known), len(w.finder.processes))
	}
	w.end(10)
	w.tables.set()
	for range keepScans + 1 {
		w.scan(time.Second)
	}
	if len(w.finder.known) != 0 || len(w.finder.processes) != 0 {
		t.Errorf("still knows %d files, %d processes", len(w.finder.known), len(w.finder.processes))
	}
}

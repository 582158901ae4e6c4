package tlstap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/bpf"
	"relaygate/capture/sockdiag"
)

// How often the processes are looked at.
const (
	// interval is the time between two scans; after the listeners changed,
	// while servers start their processes, it is startInterval for startTime.
	interval      = 2 * time.Second
	startInterval = 200 * time.Millisecond
	startTime     = 3 * time.Second
	// A scan waits at least costFactor times what scans take, one that
	// somebody asks for askFactor times: 1 % and 5 % of a processor. On a host
	// that is too busy to tell, none waits for more than longest.
	costFactor = 100
	askFactor  = 20
	longest    = 5 * time.Second
)

// Tables is what Finder asks about sockets; *sockdiag.Tables has it.
type Tables interface {
	Servers() []sockdiag.Listener
	Owners(server netip.AddrPort, netns uint64) []sockdiag.Process
	Check(server netip.AddrPort, netns uint64) (ok bool, reason string)
	Changed() <-chan struct{}
}

// Options say what a Finder works with.
type Options struct {
	Tap    Tap
	Tables Tables
	// Proc is where the proc file system is, "/proc" if empty.
	Proc string
	Log  *slog.Logger
}

// Finder follows the servers of this host and their TLS libraries. Run does
// the work; all other methods may be called from any goroutine and do not wait
// for it.
type Finder struct {
	tap    Tap
	tables Tables
	proc   string
	files  fs.FS // of proc
	log    *slog.Logger
	kick   chan struct{}
	looked chan struct{} // closed after the first scan

	// What follows belongs to Run.
	scans     uint64
	processes map[int]*process
	known     map[fileID]*knownFile
	libraries map[libraryKey]*library
	expected  map[bpf.ServerProcess]uint64 // the scan that looked for what is expected of a server
	scanErr   string                       // what the last scan said, to say it once
	unread    int                          // processes whose turn comes at the next scan

	busy   atomic.Pointer[busy]              // nil between what can hang
	heads  atomic.Pointer[map[uint32]uint64] // what the kernel was told: process to start
	view   atomic.Pointer[view]
	belief belief

	counting sync.Mutex
	counts   map[bpf.ServerProcess]*count

	sharing sync.Mutex
	shares  shares
}

// New makes a Finder. Nothing is attached before Run.
func New(o Options) (*Finder, error) {
	if o.Tap == nil || o.Tables == nil || o.Log == nil {
		return nil, errors.New("a finder of TLS libraries needs a tap, socket tables and a log")
	}
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	f := &Finder{
		tap: o.Tap, tables: o.Tables, proc: o.Proc, files: os.DirFS(o.Proc), log: o.Log,
		kick:      make(chan struct{}, 1),
		looked:    make(chan struct{}),
		processes: make(map[int]*process),
		known:     make(map[fileID]*knownFile),
		libraries: make(map[libraryKey]*library),
		expected:  make(map[bpf.ServerProcess]uint64),
		counts:    make(map[bpf.ServerProcess]*count),
	}
	f.view.Store(&view{})
	return f, nil
}

// Run follows servers and libraries until the context ends, and detaches. What
// fails is logged, shown by Coverage and tried again.
func (f *Finder) Run(ctx context.Context) error {
	defer f.detach()
	var quick time.Time    // until when startInterval holds
	var last time.Duration // what the scan before took
	force := true
	for {
		changed := f.tables.Changed()
		begin := time.Now()
		f.scan(begin, force)
		if f.scans == 1 {
			close(f.looked)
		}
		took := time.Since(begin)
		cost := min(took, last) // what is done once, such as to attach, does not count
		last = took

		wait := interval
		if begin.Before(quick) {
			wait = startInterval
		}
		timer := time.NewTimer(min(max(wait, costFactor*cost), longest))
		force = false
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
				waiting = false
				continue
			case <-changed:
				changed = f.tables.Changed()
				f.follow()
				quick = time.Now().Add(startTime)
			case <-f.kick:
				force = true
			}
			timer.Reset(min(askFactor*cost, longest) - time.Since(begin)) // passed already, mostly
		}
	}
}

// Looked is closed once Run has looked at the servers that run already: the
// libraries that they use are watched.
func (f *Finder) Looked() <-chan struct{} { return f.looked }

// lookAgain makes Run look at all mappings soon: somebody saw a handshake that no
// watched library took part in.
func (f *Finder) lookAgain() {
	select {
	case f.kick <- struct{}{}:
	default: // it will
	}
}

func (f *Finder) detach() {
	for _, l := range f.libraries {
		l.close(f.log)
	}
	clear(f.libraries)
}

// scan looks at servers, processes and mappings once. Forced, it reads all
// mappings again, else those of processes that are new or grew.
func (f *Finder) scan(now time.Time, force bool) {
	f.scans++
	f.unread = 0
	f.leaveOverwritten()
	t, err := walk(f.files)
	if err != nil {
		f.complain(err)
		return
	}
	list, onlyInit := heads(f.tables.Servers(), t)
	told := f.tell(list)

	families := make(map[bpf.ServerProcess]*family, len(list))
	order := make([]*family, 0, len(list))
	reads, room := budget{mapsPerScan, 0}, processLimit
	if force {
		reads.again = mapsPerScan
	}
	for i := range list {
		fam := f.family(&list[i], t, now, &reads, room)
		room -= len(fam.members)
		f.expect(fam, now)
		families[fam.head] = fam
		order = append(order, fam)
	}
	f.attach(now)
	f.forget(now, families)
	f.publish(order, onlyInit, told)
}

// complain logs what a scan says if the last one did not.
func (f *Finder) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != f.scanErr {
		f.log.Warn("TLS servers cannot be followed", "error", err)
	}
	f.scanErr = text
}

// family reads the processes of one server.
func (f *Finder) family(h *holder, t tree, now time.Time, reads *budget, room int) *family {
	fam := &family{head: h.head(), name: h.process.Title(), listeners: h.listeners}
	for _, pid := range t.members(h.process.PID, room) {
		p := f.process(pid, t.stats[pid], reads)
		fam.members = append(fam.members, p)
		for _, k := range p.files {
			k.seen = f.scans
			if k.library != nil {
				k.library.used = now
				k.library.users[fam.head] = true
			}
		}
	}
	return fam
}

// busy is what Run is about: a process, whose mappings it reads and the files of new ones,
// or a library that it attaches to.
type busy struct {
	what  string
	since time.Time
}

// Busy says what Run is about, and since when; not ok is none. It can take for ever: where
// a file system hangs a process may wait for it with its mappings locked, which attaching
// waits for too, or the file be there.
func (f *Finder) Busy() (what string, since time.Time, ok bool) {
	b := f.busy.Load()
	if b == nil {
		return "", time.Time{}, false
	}
	return b.what, b.since, true
}

// budget is how many mappings a scan still reads: of processes that are new or
// changed, and of those that seem not to have.
type budget struct{ changed, again int }

// process reads what is new about a process.
func (f *Finder) process(pid int, stat sockdiag.Stat, reads *budget) *process {
	p := f.processes[pid]
	if p == nil || p.start != stat.Start {
		p = &process{pid: pid, start: stat.Start}
		f.processes[pid] = p
	}
	if p.seen == f.scans {
		return p // a member of two families
	}
	p.seen, p.name = f.scans, stat.Name
	switch {
	case p.size == stat.Size && reads.again == 0:
		return p
	case p.size == stat.Size:
		reads.again--
	case reads.changed == 0:
		f.unread++
		return p
	default:
		reads.changed--
	}
	p.size = stat.Size
	f.busy.Store(&busy{fmt.Sprintf("process %d", pid), time.Now()})
	defer f.busy.Store(nil)
	files, err := readMaps(f.proc, pid)
	p.err = err
	p.files = p.files[:0]
	for _, m := range files {
		if k := f.file(pid, m); k != nil {
			p.files = append(p.files, k)
		}
	}
	return p
}

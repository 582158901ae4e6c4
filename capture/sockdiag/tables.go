package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/bpf"
)

// How the tables are kept fresh.
const (
	// interval is the time between two looks at the listeners. Where many processes hold
	// them, as those of Cyrus do one for each session, one takes a lookShare-th of the
	// time, but is not older than longest when the next begins.
	interval  = 500 * time.Millisecond
	lookShare = 20
	longest   = 3 * time.Second
	// searchInterval is how long the holders of known listeners are
	// believed to stay the same: to find them costs a look at every open
	// file of the host.
	searchInterval = time.Minute
	// Where a holder has ended, none was seen, or init may pass a listener on,
	// they are searched sooner, but no search follows another before
	// researchInterval, nor before researchCost times what the other took. Where
	// one failed, nobody is believed: another follows at the first look after
	// failedCost times what that took.
	researchInterval = 5 * time.Second
	researchCost     = 100
	failedCost       = 10
	// staleAfter is the age from which a snapshot is not believed.
	staleAfter = 6 * time.Second
)

// Options say what Tables look at.
type Options struct {
	// Ports are the watched local ports.
	Ports []uint16
	// Netns are the trusted network namespaces, the own one first. They must stay
	// open until Close.
	Netns []*bpf.Netns
	// Owners are the users, in the initial user namespace, whose listeners
	// are believed.
	Owners []uint32
}

// Listener is a listening socket and who holds it.
type Listener struct {
	// Netns is the inode number of the network namespace.
	Netns uint64
	Socket
	// Since is when it was seen first, and it was seen at each look from then on.
	Since time.Time
	// Processes is nil while they are searched for the first time, and empty where
	// none is seen.
	Processes []Process
}

// Tables answers whether a listener or a connection may be believed. Run keeps
// it fresh. All methods but Close may be called from any goroutine.
type Tables struct {
	owners map[uint32]bool
	ports  []uint16
	proc   fs.FS

	fileLimit int

	namespaces []namespace

	dumping sync.Mutex // one list at a time

	looking   sync.Mutex // guards what follows
	searched  time.Time  // when holders were last looked for
	cost      time.Duration
	sought    map[uint32]bool // whose holders are looked for now, nil while none are
	ended     bool            // a holder has, or let go, since
	held      map[uint32][]Process
	searchErr error

	current atomic.Pointer[snapshot]
	ask     chan struct{}
	waited  atomic.Int64 // when Check last waited, Unix ns
}

// namespace is one trusted network namespace.
type namespace struct {
	id   uint64
	ask  tables
	dump sessions // a socket of its own: a long list must not delay ask
}

// sessions lists the connections on local ports.
type sessions interface {
	sessions(ports []uint16, states uint32, yield func(Session) error) error
	Close() error
}

// tables is what is asked of a namespace's socket tables.
type tables interface {
	listening(ports []uint16) ([]Socket, error)
	has(local, remote netip.AddrPort, device uint32) (bool, error)
	Close() error
}

// snapshot is what was seen at one time.
type snapshot struct {
	at        time.Time
	listeners []Listener
	err       error // why nothing in it is to be believed
	replaced  chan struct{}
	changed   chan struct{} // shared with those before that say the same
}

// New opens the tables and takes a first look.
func New(o Options) (*Tables, error) {
	t := newTables(o, os.DirFS("/proc"))
	for _, ns := range o.Netns {
		ask, err := dial(ns.FD())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("network namespace %d: %w", ns.ID(), err), t.Close())
		}
		dump, err := dial(ns.FD())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("network namespace %d: %w", ns.ID(), err), ask.Close(), t.Close())
		}
		t.namespaces = append(t.namespaces, namespace{id: ns.ID(), ask: ask, dump: dump})
	}
	if t.look() {
		t.search()
	}
	return t, nil
}

func newTables(o Options, proc fs.FS) *Tables {
	t := &Tables{
		owners: make(map[uint32]bool),
		ports:  o.Ports,
		proc:   proc,
		ask:    make(chan struct{}, 1),

		fileLimit: fileLimit,
	}
	for _, uid := range o.Owners {
		t.owners[uid] = true
	}
	t.current.Store(&snapshot{replaced: make(chan struct{}), changed: make(chan struct{})})
	return t
}

// Close releases the tables; no other method may run.
func (t *Tables) Close() error {
	var errs []error
	for _, ns := range t.namespaces {
		errs = append(errs, ns.ask.Close(), ns.dump.Close())
	}
	return errors.Join(errs...)
}

// Run looks at the listeners every few seconds, and when Check meets one that
// it does not know, until the context ends. What fails is a reason that Check
// gives.
func (t *Tables) Run(ctx context.Context) error {
	var searches sync.WaitGroup
	defer searches.Wait()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-t.ask:
		}
		begin := time.Now()
		if t.look() {
			searches.Go(t.search)
		}
		timer.Reset(rest(time.Since(begin)))
	}
}

// rest is the time from a look to the next one. What was seen is as old as when the look
// began, and is to be believed until the next one ends.
func rest(took time.Duration) time.Duration {
	return max(interval, min(lookShare*took, longest-took))
}

// look takes a new snapshot. If it says so holders must be searched for that, which
// takes another one in the end: on a host with many open files it takes longer than a
// snapshot is believed, and those that were found before are looked at meanwhile.
func (t *Tables) look() (search bool) { return t.take(true) }

// take takes it; a search there is only if it may be.
func (t *Tables) take(maySearch bool) (search bool) {
	t.looking.Lock()
	defer t.looking.Unlock()
	old := t.current.Load()
	next := &snapshot{at: time.Now(), replaced: make(chan struct{}), changed: old.changed}
	if next.listeners, search, next.err = t.listeners(next.at, maySearch); search {
		return true
	}
	same := next.same(old)
	if !same {
		next.changed = make(chan struct{})
	}
	t.current.Store(next)
	close(old.replaced)
	if !same {
		close(old.changed)
	}
	return false
}

// search finds the holders that are sought, and looks again.
func (t *Tables) search() {
	begin := time.Now()
	held, err := holders(t.proc, t.sought, t.fileLimit)
	t.looking.Lock()
	t.held, t.searchErr, t.cost, t.sought = held, err, time.Since(begin), nil
	t.looking.Unlock()
	t.take(false)
}

// same says whether nobody needs to be told of the new snapshot.
func (s *snapshot) same(old *snapshot) bool {
	return s.err == nil && old.err == nil &&
		slices.EqualFunc(s.listeners, old.listeners, func(a, b Listener) bool {
			return a.Netns == b.Netns && a.Socket == b.Socket && slices.Equal(a.Processes, b.Processes)
		})
}

// listeners lists the listeners of all namespaces with their holders, or says that they
// have to be searched first.
func (t *Tables) listeners(now time.Time, maySearch bool) (all []Listener, search bool, err error) {
	inodes := make(map[uint32]bool)
	unknown, passing := t.forget(), false
	before := t.current.Load().listeners
	for _, ns := range t.namespaces {
		sockets, err := ns.ask.listening(t.ports)
		if err != nil {
			return nil, false, fmt.Errorf("network namespace %d: %w", ns.id, err)
		}
		seen := time.Now() // before that another may have had its place
		for _, s := range sockets {
			l := Listener{Netns: ns.id, Socket: s, Since: seen}
			for i := range before {
				if before[i].Netns == l.Netns && before[i].Socket == l.Socket {
					l.Since = before[i].Since
				}
			}
			if t.owners[s.UID] { // else it does not matter who holds it
				held, known := t.held[s.Inode]
				unknown = unknown || !known
				passing = passing || len(held) == 0 || onlyInit(held)
				l.Processes, inodes[s.Inode] = held, true
			}
			all = append(all, l)
		}
	}
	since := now.Sub(t.searched)
	failed := t.searchErr != nil && !errors.Is(t.searchErr, errTooManyFiles)
	due := unknown || since >= searchInterval ||
		failed && since >= failedCost*t.cost ||
		(t.ended || passing) && since >= max(researchInterval, researchCost*t.cost)
	if due && maySearch && t.sought == nil {
		t.sought, t.searched, t.ended = inodes, now, false
		return nil, true, nil
	}
	if t.searchErr != nil {
		return nil, false, t.searchErr
	}
	return all, false, nil
}

// forget drops the holders that have ended or let go, and says whether that leaves
// a listener without any: somebody whom no search has seen may hold it.
func (t *Tables) forget() (orphans bool) {
	for inode, held := range t.held {
		left := make([]Process, 0, len(held))
		for _, p := range held {
			if now, holds := p.still(t.proc, inode); holds {
				left = append(left, now)
			}
		}
		t.held[inode] = left // never nil; the old list belongs to snapshots
		if len(left) < len(held) {
			t.ended = true
			orphans = orphans || len(left) == 0
		}
	}
	return orphans
}

// Listeners lists what was seen last, and since when. The list is shared:
// callers only read it.
func (t *Tables) Listeners() ([]Listener, time.Time, error) {
	s := t.current.Load()
	return s.listeners, s.at, s.err
}

// Changed returns a channel that is closed once a look finds something else
// than what Listeners and Owners say now, or fails. Get it before those.
func (t *Tables) Changed() <-chan struct{} { return t.current.Load().changed }

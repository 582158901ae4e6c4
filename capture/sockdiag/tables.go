package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
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
	// researchInterval, nor before researchCost times what the other took; where
	// somebody connects to one that nobody answers for, not before askedCost times that.
	// Where one failed, nobody is believed: another follows at the first look after
	// failedCost times what that took.
	researchInterval = 5 * time.Second
	researchCost     = 100
	askedCost        = 20
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

	wanted  atomic.Bool // a search, by a check
	current atomic.Pointer[snapshot]
	ask     chan struct{}
	vain    atomic.Pointer[vain] // the last one
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
	has(local, remote netip.AddrPort, device uint32, transparent bool) (bool, error)
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

// lookSoon has Run look at once.
func (t *Tables) lookSoon() {
	select {
	case t.ask <- struct{}{}:
	default: // it will
	}
}

// rest is the time from a look to the next one. What was seen is as old as when the look
// began, and is to be believed until the next one ends.
func rest(took time.Duration) time.Duration {
	return max(interval, min(lookShare*took, longest-took))
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

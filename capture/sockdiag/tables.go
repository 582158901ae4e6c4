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

	"relaygate/authz"
	"relaygate/bpf"
)

// How the tables are kept fresh.
const (
	// interval is the time between two looks at the listeners.
	interval = 2 * time.Second
	// searchInterval is how long the holders of known listeners are
	// believed to stay the same: to find them costs a look at every open
	// file of the host.
	searchInterval = time.Minute
	// staleAfter is the age from which a snapshot is not believed.
	staleAfter = 3 * interval
	// patience is how long Check waits for a look at a listener that it does
	// not know, and impatience for how long it does not wait again.
	patience   = 100 * time.Millisecond
	impatience = time.Second
)

// Options say what Tables look at.
type Options struct {
	// Ports are the watched local ports.
	Ports []uint16
	// Netns are the trusted network namespaces. They must stay open until
	// Close.
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
	Processes []Process
}

// Tables answers whether a listener or a connection may be believed. Run keeps
// it fresh. All methods but Close may be called from any goroutine.
type Tables struct {
	owners map[uint32]bool
	ports  []uint16
	proc   fs.FS
	now    func() time.Time

	namespaces []namespace

	looking  sync.Mutex // guards searched and held
	searched time.Time  // when holders were last looked for
	held     map[uint32][]Process

	current atomic.Pointer[snapshot]
	ask     chan struct{}
	waited  atomic.Int64 // when Check last waited, Unix ns
}

// namespace is one trusted network namespace.
type namespace struct {
	id  uint64
	ask tables
}

// tables is what is asked of a namespace's socket tables.
type tables interface {
	listening(port uint16) ([]Socket, error)
	find(local, remote netip.AddrPort) (Socket, bool, error)
	Close() error
}

// snapshot is what was seen at one time.
type snapshot struct {
	at        time.Time
	listeners []Listener
	err       error // why nothing in it is to be believed
	replaced  chan struct{}
}

// New opens the tables and takes a first look.
func New(o Options) (*Tables, error) {
	t := newTables(o, os.DirFS("/proc"))
	for _, ns := range o.Netns {
		c, err := dial(ns.FD())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("network namespace %d: %w", ns.ID(), err), t.Close())
		}
		t.namespaces = append(t.namespaces, namespace{id: ns.ID(), ask: c})
	}
	t.look()
	return t, nil
}

func newTables(o Options, proc fs.FS) *Tables {
	t := &Tables{
		owners: make(map[uint32]bool),
		ports:  o.Ports,
		proc:   proc,
		now:    time.Now,
		ask:    make(chan struct{}, 1),
	}
	for _, uid := range o.Owners {
		t.owners[uid] = true
	}
	t.current.Store(&snapshot{replaced: make(chan struct{})})
	return t
}

// Close releases the tables; no other method may run.
func (t *Tables) Close() error {
	var errs []error
	for _, ns := range t.namespaces {
		errs = append(errs, ns.ask.Close())
	}
	return errors.Join(errs...)
}

// Run looks at the listeners every few seconds, and when Check meets one that
// it does not know, until the context ends. What fails is a reason that Check
// gives.
func (t *Tables) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-t.ask:
		}
		t.look()
	}
}

// look takes a new snapshot.
func (t *Tables) look() {
	t.looking.Lock()
	defer t.looking.Unlock()
	next := &snapshot{at: t.now(), replaced: make(chan struct{})}
	next.listeners, next.err = t.listeners(next.at)
	old := t.current.Swap(next)
	close(old.replaced)
}

// listeners lists the listeners of all namespaces with their holders.
func (t *Tables) listeners(now time.Time) ([]Listener, error) {
	var all []Listener
	inodes := make(map[uint32]bool)
	unknown := false
	for _, ns := range t.namespaces {
		for _, port := range t.ports {
			sockets, err := ns.ask.listening(port)
			if err != nil {
				return nil, fmt.Errorf("network namespace %d: %w", ns.id, err)
			}
			for _, s := range sockets {
				all = append(all, Listener{Netns: ns.id, Socket: s})
				if t.owners[s.UID] { // else it does not matter who holds it
					_, known := t.held[s.Inode]
					unknown = unknown || !known
					inodes[s.Inode] = true
				}
			}
		}
	}
	if unknown || now.Sub(t.searched) >= searchInterval {
		held, err := holders(t.proc, inodes, fileLimit)
		if err != nil {
			return nil, err
		}
		t.held, t.searched = held, now
	}
	for i := range all {
		all[i].Processes = t.held[all[i].Inode]
	}
	return all, nil
}

// Listeners lists what was seen last, and since when.
func (t *Tables) Listeners() ([]Listener, time.Time, error) {
	s := t.current.Load()
	return s.listeners, s.at, s.err
}

// Check says whether the listener that accepted a connection on the server's
// address may be believed, and if not why. If the answer is not known it waits
// a moment for Run to look; when in doubt the answer is no.
func (t *Tables) Check(server netip.AddrPort, netns uint64) (ok bool, reason string) {
	s := t.current.Load()
	accepting := s.accepting(server, netns)
	if len(accepting) == 0 || t.now().Sub(s.at) > staleAfter {
		s = t.fresh(s)
		accepting = s.accepting(server, netns)
	}
	if s.err != nil {
		return false, fmt.Sprintf("who listens on %v is not known: %v", server, s.err)
	}
	if t.now().Sub(s.at) > staleAfter {
		return false, fmt.Sprintf("who listens on %v was not looked at for a while", server)
	}
	if len(accepting) == 0 {
		return false, fmt.Sprintf("nobody is known to listen on %v in a trusted network namespace", server)
	}
	for _, l := range accepting {
		if reason := t.doubt(l); reason != "" {
			return false, reason
		}
	}
	return true, ""
}

// fresh asks for a new look and waits for it, but not often: connections to
// unknown listeners must not slow everybody down.
func (t *Tables) fresh(old *snapshot) *snapshot {
	select {
	case t.ask <- struct{}{}:
	default: // asked already
	}
	now := t.now().UnixNano()
	waited := t.waited.Load()
	if now-waited < int64(impatience) || !t.waited.CompareAndSwap(waited, now) {
		return t.current.Load()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-old.replaced:
	case <-timer.C:
	}
	return t.current.Load()
}

// accepting lists all listeners that could have accepted a connection to the
// address: which of them did is not known afterwards.
func (s *snapshot) accepting(server netip.AddrPort, netns uint64) []Listener {
	var all []Listener
	for _, l := range s.listeners {
		if l.Netns == netns && l.Local.Port() == server.Port() && l.covers(server.Addr()) {
			all = append(all, l)
		}
	}
	return all
}

// covers says whether a listener takes connections to the address.
func (s Socket) covers(addr netip.Addr) bool {
	local := s.Local.Addr()
	if !local.IsUnspecified() {
		return local.WithZone("") == addr.WithZone("")
	}
	return local.Is4() == addr.Is4() || local.Is6() && !s.V6Only
}

// doubt says why the listener is not to be believed, or "".
func (t *Tables) doubt(l Listener) string {
	if !t.owners[l.UID] {
		return fmt.Sprintf("the listener on %v belongs to uid %d, who is not trusted", l.Local, l.UID)
	}
	if len(l.Processes) == 0 {
		return fmt.Sprintf("no process is seen that holds the listener on %v", l.Local)
	}
	for _, p := range l.Processes {
		if p.forwards() {
			return fmt.Sprintf("the listener on %v only forwards: %v holds it", l.Local, p)
		}
	}
	return ""
}

// Established looks for this very connection in the trusted namespaces.
func (t *Tables) Established(c authz.Conn) (s Socket, netns uint64, ok bool, err error) {
	for _, ns := range t.namespaces {
		s, ok, err := ns.ask.find(c.Server, c.Client)
		if err != nil {
			return Socket{}, 0, false, fmt.Errorf("network namespace %d: %w", ns.id, err)
		}
		if ok {
			return s, ns.id, true, nil
		}
	}
	return Socket{}, 0, false, nil
}

// CheckConnection says whether a connection that was only seen on the wire may
// be believed: it must exist in a trusted namespace, and its listener pass
// Check. The connection's own owner says nothing: it is whoever accepted it,
// such as a login process without privileges.
func (t *Tables) CheckConnection(c authz.Conn) (ok bool, reason string) {
	_, netns, ok, err := t.Established(c)
	if err != nil {
		return false, fmt.Sprintf("whether the connection exists is not known: %v", err)
	}
	if !ok {
		return false, "no trusted network namespace has this connection"
	}
	return t.Check(c.Server, netns)
}

package bpf

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// WireOptions say what a Wire follows.
type WireOptions struct {
	// Ports are the watched TCP ports of the mail servers.
	Ports []uint16
	// Inside: the interfaces lead to mail servers behind this host, so that the
	// servers' segments come in there and the clients' leave. Without it the
	// servers are this host's own, and it is the other way round: their segments are
	// those that a socket of the interface's own namespace sent.
	Inside bool
	// Servers are where the mail servers are.
	Servers []netip.Prefix
	// RingBytes is the size of the packets ring, a power of two and at least
	// a page; 0 means 8 MiB.
	RingBytes uint32
}

// Wire is the tap on interfaces. Its records are those of a Tap, but for three
// things: a connection's cookie is a number of its own and no socket's; Opened
// tells no namespace and no owner, as there is no socket; and Closed is what the
// packets show: an RST of the server, or of the client where the server must
// take it, each side's FIN acknowledged, or silence.
type Wire struct {
	objs   wireObjects
	reader *Reader
	start  time.Time // of Tick
	inside bool

	mu    sync.Mutex // guards links
	links map[int][]io.Closer
}

// LoadWire loads the programs, attached to no interface yet. If the kernel lacks
// something the error holds a *FeatureError.
func LoadWire(o WireOptions) (*Wire, error) {
	if err := missing(WireFeatures()); err != nil {
		return nil, err
	}
	w := &Wire{start: time.Now(), inside: o.Inside, links: make(map[int][]io.Closer)}
	if err := w.prepare(o); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Wire) prepare(o WireOptions) error {
	if err := liftMemoryLimit(); err != nil {
		return err
	}
	spec, err := loadWire()
	if err != nil {
		return fmt.Errorf("read the programs of the tap on interfaces: %w", err)
	}
	number := map[bool]uint32{true: 1}
	if _, err = sizeRings(spec, o.RingBytes); err != nil {
		return err
	}
	err = errors.Join(
		spec.Variables[wireVarKernelAccess].Set(tapAccessBY_CASTS), // which are older than tcx
		spec.Variables[wireVarInside].Set(number[o.Inside]),
		spec.Variables[wireVarHashKey].Set(rand.Uint64()))
	if err != nil {
		return fmt.Errorf("set up the tap on interfaces: %w", err)
	}
	if err := spec.LoadAndAssign(&w.objs, nil); err != nil {
		return fmt.Errorf("load the programs of the tap on interfaces: %w", err)
	}
	if w.reader, err = newReader(w.objs.Packets, w.objs.Events, w.objs.Untold, w.objs.Notes); err != nil {
		return err
	}
	return errors.Join(setPorts(w.objs.WatchedPorts, o.Ports), w.SetServers(o.Servers), w.Tick(w.start))
}

// hook is a place of an interface, and what is put there.
type hook struct {
	prog   *ebpf.Program
	attach ebpf.AttachType
	anchor link.Anchor
}

// The clients' segments are seen before the programs that are there, of which one that
// lets some of them pass would hide these; the servers' behind, so that what another
// has dropped does not count.
func (w *Wire) arrive() hook {
	h := hook{w.objs.RelaygateArrive, ebpf.AttachTCXIngress, link.Head()}
	if w.inside {
		h.anchor = link.Tail()
	}
	return h
}

func (w *Wire) leave() hook {
	h := hook{w.objs.RelaygateLeave, ebpf.AttachTCXEgress, link.Tail()}
	if w.inside {
		h.anchor = link.Head()
	}
	return h
}

// Attach taps an interface of the calling thread's network namespace.
func (w *Wire) Attach(index int) error { return w.attach(index, w.leave(), w.arrive()) }

// AttachArrivals taps what comes in by an interface, and not what leaves.
func (w *Wire) AttachArrivals(index int) error { return w.attach(index, w.arrive()) }

// attach puts programs on an interface, in the place of those that it has.
func (w *Wire) attach(index int, hooks ...hook) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.links[index]) >= len(hooks) {
		return nil
	}
	err := closeLinks(w.links[index])
	delete(w.links, index)
	if err != nil {
		return err
	}
	var links []io.Closer
	for _, h := range hooks {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: h.prog, Attach: h.attach, Anchor: h.anchor})
		if err != nil {
			return errors.Join(fmt.Errorf("attach %s to interface %d: %w", h.attach, index, err), closeLinks(links))
		}
		links = append(links, l)
	}
	w.links[index] = links
	return nil
}

// Detach ends the tap of an interface, which may be gone, and closes the
// connections that were followed there.
func (w *Wire) Detach(index int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := closeLinks(w.links[index])
	delete(w.links, index)
	return errors.Join(err, w.sweep(wireSweep{Idle: never, Ending: never, Gone: uint32(index)}))
}

// Close detaches the programs and closes the reader.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, links := range w.links {
		errs = append(errs, closeLinks(links))
	}
	clear(w.links)
	if w.reader != nil {
		errs = append(errs, w.reader.Close())
	}
	return errors.Join(append(errs, w.objs.Close())...)
}

// Reader is the tap's only reader; Close closes it.
func (w *Wire) Reader() *Reader { return w.reader }

// SetServers replaces where the mail servers are. Connections that are followed
// stay so.
func (w *Wire) SetServers(servers []netip.Prefix) error {
	networks := make([]wireNetwork, len(servers))
	for i, p := range servers {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		networks[i] = wireNetwork{Length: uint32(bits), Addr: words(p.Addr())}
	}
	err := replace(w.objs.MailServers, networks)
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("set the mail servers: %d networks are more than the %d that have room: %w",
			len(servers), w.objs.MailServers.MaxEntries(), err)
	case err != nil:
		return fmt.Errorf("set the mail servers: %w", err)
	}
	return nil
}

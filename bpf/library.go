package bpf

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
)

// LibraryKind says whose functions a library has.
type LibraryKind uint8

// The kinds.
const (
	OpenSSL LibraryKind = iota + 1
	GnuTLS
)

func (k LibraryKind) String() string {
	switch k {
	case OpenSSL:
		return "OpenSSL"
	case GnuTLS:
		return "GnuTLS"
	}
	return fmt.Sprintf("unknown library %d", uint8(k))
}

// Library is one file with the code of a TLS library.
type Library struct {
	// Path leads to the file, for instance /proc/PID/map_files/ADDRESSES.
	Path string
	Kind LibraryKind
	// Functions are those that it exports, by name. Only those of Functions and
	// Accessors matter.
	Functions map[string]Function
}

// LibraryProbes are the programs on one library file. They stay on it, for
// all processes that use it, until Close.
type LibraryProbes struct {
	tap              *Tap
	objs             *ebpf.Collection // of what this way needs
	way              way
	entries, returns []io.Closer
}

// way is how programs are attached.
type way uint8

const (
	byPerf    way = iota // a perf event for each function and each end of it
	byMulti              // a link for many functions (Linux 6.6)
	bySession            // a link for both ends of all (Linux 6.13)
)

// bestWay is the best that this kernel has.
func bestWay() way {
	switch {
	case HaveUprobeSession() == nil:
		return bySession
	case HaveUprobeMulti() == nil:
		return byMulti
	}
	return byPerf
}

// ErrNoFunctions says that a library file has not the functions that it takes.
var ErrNoFunctions = errors.New("the library has not both a function that reads and one that writes")

// AttachLibrary attaches the probes to a library file. Connections that were opened
// before that are Lost with their first plaintext. If the kernel
// has no uprobes the error holds a *FeatureError.
func (t *Tap) AttachLibrary(lib Library) (*LibraryProbes, error) {
	if err := HaveUprobes(); err != nil {
		return nil, err
	}
	return t.attachLibrary(lib, bestWay())
}

func (t *Tap) attachLibrary(lib Library, way way) (*LibraryProbes, error) {
	if err := t.watchHandshakes(); err != nil {
		return nil, err
	}
	p := &LibraryProbes{tap: t, way: way}
	if err := p.start(lib); err != nil {
		return nil, errors.Join(fmt.Errorf("probe %v: %w", lib.Kind, err), p.release())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.probes == nil {
		t.probes = make(map[*LibraryProbes]bool)
	}
	t.probes[p] = true
	return p, nil
}

// start reads the library's code, attaches the programs to it and lets them speak.
func (p *LibraryProbes) start(lib Library) error {
	cpu, err := thisProcessor()
	if err != nil {
		return err
	}
	file, err := os.Open(lib.Path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	code := &machineCode{machine: cpu, functions: lib.Functions, file: file}
	places := code.places(lib.Kind)
	if !complete(places) {
		return ErrNoFunctions
	}
	l, err := code.layout(lib.Kind)
	if err != nil {
		return err
	}
	if err := p.load(cpu, l); err != nil {
		return err
	}
	if err := p.attach(lib.Path, places); err != nil {
		return err
	}
	return p.arm()
}

// load makes a copy of the programs that shares the tap's maps.
func (p *LibraryProbes) load(cpu tlsMachine, l layout) error {
	spec, err := loadTls()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	err = errors.Join(
		spec.Variables[tlsVarProcessor].Set(cpu),
		spec.Variables[tlsVarWakeupBytes].Set(p.tap.wakeup),
		spec.Variables[tlsVarRandomAt].Set(l.random),
		spec.Variables[tlsVarPointerAt].Set(l.pointer),
		spec.Variables[tlsVarRoleAt].Set(l.role),
	)
	if err != nil {
		return fmt.Errorf("set the programs' constants: %w", err)
	}
	spec.Maps[tapMapPackets].MaxEntries = p.tap.objs.Packets.MaxEntries()
	shared := map[string]*ebpf.Map{
		tapMapFlows:       p.tap.objs.Flows,
		tapMapPackets:     p.tap.objs.Packets,
		tapMapEvents:      p.tap.objs.Events,
		tapMapNotes:       p.tap.objs.Notes,
		tapMapRandoms:     p.tap.objs.Randoms,
		tapMapServers:     p.tap.objs.Servers,
		tapMapDescendants: p.tap.objs.Descendants,
		tapMapCalls:       p.tap.objs.Calls,
		tapMapCounters:    p.tap.objs.Counters,
		tapMapUntold:      p.tap.objs.Untold,
	}
	// What is not needed is not loaded: older kernels refuse the one for both ends.
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return name == tlsProgRelaygateFork || (name == tlsProgRelaygateBoth) != (p.way == bySession)
	})
	for _, program := range spec.Programs {
		switch p.way {
		case byMulti:
			program.AttachType = ebpf.AttachTraceUprobeMulti
		case bySession:
			program.AttachType = attachUprobeSession
		}
	}
	p.objs, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	return nil
}

// thisProcessor says whose registers the programs are to read.
func thisProcessor() (tlsMachine, error) {
	switch runtime.GOARCH {
	case "amd64":
		return tlsMachineX8664, nil
	case "arm64":
		return tlsMachineARM64, nil
	}
	return 0, fmt.Errorf("the calling convention of %s: %w", runtime.GOARCH, ebpf.ErrNotSupported)
}

// arm lets the programs speak, all at once.
func (p *LibraryProbes) arm() error {
	now, err := Monotonic()
	if err != nil {
		return err
	}
	if err := p.objs.Variables[tlsVarArmed].Set(now); err != nil {
		return fmt.Errorf("arm the probes: %w", err)
	}
	return nil
}

// Recognised is true once a followed connection was found in an object.
func (p *LibraryProbes) Recognised() bool {
	var recognised uint32
	return p.objs.Variables[tlsVarRecognised].Get(&recognised) == nil && recognised != 0
}

// Close disarms the probes and takes them away.
func (p *LibraryProbes) Close() error {
	p.tap.mu.Lock()
	defer p.tap.mu.Unlock()
	if !p.tap.probes[p] {
		return nil
	}
	delete(p.tap.probes, p)
	return p.release()
}

// release undoes what was done so far; entries go before returns.
func (p *LibraryProbes) release() error {
	if p.objs == nil {
		return nil
	}
	err := errors.Join(p.objs.Variables[tlsVarArmed].Set(uint64(0)), closeLinks(p.entries), closeLinks(p.returns))
	p.objs.Close()
	return err
}

// closeProbes closes all that are open.
func (t *Tap) closeProbes() []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for p := range t.probes {
		errs = append(errs, p.release())
	}
	t.probes = nil
	return errs
}

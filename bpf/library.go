package bpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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
	// Symbols are the exported functions, each with its offset in the file in
	// bytes. Those that are not in Functions do not matter.
	Symbols map[string]uint64
}

// LibraryProbes are the programs on one library file. They stay on it, for
// all processes that use it, until Close.
type LibraryProbes struct {
	tap              *Tap
	objs             tlsObjects
	multi            bool // links hold many functions each (Linux 6.6)
	entries, returns []link.Link
}

// ErrNoFunctions says that a library file has not the functions that it takes.
var ErrNoFunctions = errors.New("the library has not both a function that reads and one that writes")

// AttachLibrary attaches the probes to a library file. Connections whose
// handshake was before that are Lost with their first plaintext. If the kernel
// has no uprobes the error holds a *FeatureError.
func (t *Tap) AttachLibrary(lib Library) (*LibraryProbes, error) {
	if err := HaveUprobes(); err != nil {
		return nil, err
	}
	return t.attachLibrary(lib, HaveUprobeMulti() == nil)
}

// attachLibrary does so with links that hold many functions each, or one.
func (t *Tap) attachLibrary(lib Library, multi bool) (*LibraryProbes, error) {
	if err := t.watchHandshakes(); err != nil {
		return nil, err
	}
	p := &LibraryProbes{tap: t, multi: multi}
	err := p.load()
	if err == nil {
		err = p.attach(lib)
	}
	if err == nil {
		err = p.arm()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe %v in %s: %w", lib.Kind, lib.Path, err), p.release())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.probes == nil {
		t.probes = make(map[*LibraryProbes]bool)
	}
	t.probes[p] = true
	return p, nil
}

// load makes a copy of the programs that shares the tap's maps.
func (p *LibraryProbes) load() error {
	spec, err := loadTls()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	cpu, err := thisProcessor()
	if err != nil {
		return err
	}
	err = errors.Join(
		spec.Variables[tlsVarProcessor].Set(cpu),
		spec.Variables[tlsVarWakeupBytes].Set(p.tap.wakeup),
	)
	if err != nil {
		return fmt.Errorf("set the programs' constants: %w", err)
	}
	spec.Maps[tapMapPackets].MaxEntries = p.tap.objs.Packets.MaxEntries()
	shared := map[string]*ebpf.Map{
		tapMapFlows:       p.tap.objs.Flows,
		tapMapPackets:     p.tap.objs.Packets,
		tapMapEvents:      p.tap.objs.Events,
		tapMapRandoms:     p.tap.objs.Randoms,
		tapMapServers:     p.tap.objs.Servers,
		tapMapDescendants: p.tap.objs.Descendants,
		tapMapCalls:       p.tap.objs.Calls,
		tapMapCounters:    p.tap.objs.Counters,
	}
	if p.multi {
		for _, program := range spec.Programs {
			program.AttachType = ebpf.AttachTraceUprobeMulti
		}
	}
	err = spec.LoadAndAssign(&p.objs, &ebpf.CollectionOptions{MapReplacements: shared})
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
	now, err := monotonic()
	if err != nil {
		return err
	}
	if err := p.objs.Armed.Set(now); err != nil {
		return fmt.Errorf("arm the probes: %w", err)
	}
	return nil
}

// Offset is where the library's objects keep the server random: an offset in
// bytes, or with the highest bit set two of them, one in the object in bits 16
// to 30 and one behind the pointer that is there. It is false until the first
// handshake was found in an object.
func (p *LibraryProbes) Offset() (uint32, bool) {
	var offset uint32
	if err := p.objs.Offset.Get(&offset); err != nil {
		return 0, false
	}
	return offset, offset != 0
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
	var errs []error
	if p.objs.Armed != nil {
		errs = append(errs, p.objs.Armed.Set(uint64(0)))
	}
	errs = append(errs, closeLinks(p.entries), closeLinks(p.returns), p.objs.Close())
	return errors.Join(errs...)
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

package bpf

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Options say what a Tap follows.
type Options struct {
	// Ports are the watched local TCP ports.
	Ports []uint16
	// Netns are the trusted network namespaces. They must stay open as long
	// as they are trusted.
	Netns []*Netns
	// Owners are the users, in the initial user namespace, whose listeners
	// are believed.
	Owners []uint32
	// Cgroup is the root of the cgroup v2 tree; empty finds it.
	Cgroup string
	// RingBytes is the size of the packets ring, a power of two and at least
	// a page; 0 means 8 MiB.
	RingBytes uint32

	access *tapAccess // of a test's; nil is the kernel's best
}

// Tap is the attached programs.
type Tap struct {
	objs   tapObjects
	cgroup string
	links  []link.Link
	reader *Reader
	wakeup uint64 // fill of the packets ring that wakes the reader, in bytes

	mu     sync.Mutex // guards probes and forks
	probes map[*LibraryProbes]bool
	forks  link.Link // nil until servers are known
}

// Load attaches the tap. If the kernel lacks something the error holds a
// *FeatureError; without a usable cgroup tree ErrNoCgroup or ErrPartOfCgroups.
func Load(o Options) (*Tap, error) {
	if err := missing(Features()); err != nil {
		return nil, err
	}
	if o.Cgroup == "" {
		root, err := RootCgroup()
		if err != nil {
			return nil, err
		}
		o.Cgroup = root
	}
	t := &Tap{cgroup: o.Cgroup}
	err := t.prepare(o)
	if err == nil {
		err = t.attach()
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// prepare loads the programs and sets what they follow.
func (t *Tap) prepare(o Options) error {
	if err := liftMemoryLimit(); err != nil {
		return err
	}
	spec, err := loadTap()
	if err != nil {
		return fmt.Errorf("read the tap's programs: %w", err)
	}
	if t.wakeup, err = sizeRings(spec, o.RingBytes); err != nil {
		return err
	}
	if err := letSee(spec, o.access); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&t.objs, nil); err != nil {
		return fmt.Errorf("load the tap's programs: %w", err)
	}
	if t.reader, err = newReader(t.objs.Packets, t.objs.Events, t.objs.Untold, t.objs.Notes); err != nil {
		return err
	}
	return errors.Join(setPorts(t.objs.WatchedPorts, o.Ports), t.trust(o.Owners, o.Netns))
}

// sizeRings sets the size of the packets ring, if it is not 0, and returns the
// fill that wakes the reader.
func sizeRings(spec *ebpf.CollectionSpec, bytes uint32) (wakeup uint64, err error) {
	if bytes != 0 {
		spec.Maps[tapMapPackets].MaxEntries = bytes
	}
	wakeup = uint64(spec.Maps[tapMapPackets].MaxEntries) / 4
	if err := spec.Variables[tapVarWakeupBytes].Set(wakeup); err != nil {
		return 0, fmt.Errorf("set the tap's wake-up: %w", err)
	}
	return wakeup, nil
}

// Close detaches the programs, those on TLS libraries too, and closes the
// reader.
func (t *Tap) Close() error {
	errs := t.closeProbes()
	if t.forks != nil {
		errs = append(errs, t.forks.Close())
	}
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	if t.reader != nil {
		errs = append(errs, t.reader.Close())
	}
	return errors.Join(append(errs, t.objs.Close())...)
}

// Reader is the tap's only reader; Close closes it.
func (t *Tap) Reader() *Reader { return t.reader }

func setPorts(watched *ebpf.Variable, ports []uint16) error {
	var bits [1024]uint64
	for _, p := range ports {
		bits[p/64] |= 1 << (p % 64)
	}
	if err := watched.Set(bits); err != nil {
		return fmt.Errorf("set the watched ports: %w", err)
	}
	return nil
}

// trust says whose listeners are believed.
func (t *Tap) trust(owners []uint32, namespaces []*Netns) error {
	inodes := make([]uint32, len(namespaces))
	for i, ns := range namespaces {
		inodes[i] = ns.inode
	}
	if err := errors.Join(replace(t.objs.TrustedOwners, owners), replace(t.objs.TrustedNetns, inodes)); err != nil {
		return fmt.Errorf("set whose listeners are believed: %w", err)
	}
	return nil
}

// replace makes want the keys of a set. What is no longer wanted goes first.
func replace[K comparable](set *ebpf.Map, want []K) error {
	wanted := make(map[K]bool, len(want))
	for _, key := range want {
		wanted[key] = true
	}
	var key K
	var value uint8
	var gone []K
	all := set.Iterate()
	for all.Next(&key, &value) {
		if !wanted[key] {
			gone = append(gone, key)
		}
	}
	if err := all.Err(); err != nil {
		return err
	}
	for _, key := range gone {
		if err := set.Delete(key); err != nil {
			return err
		}
	}
	for key := range wanted {
		if err := set.Put(key, uint8(1)); err != nil {
			return err
		}
	}
	return nil
}

// SetDone ends the recording of a connection; its Closed still comes. It is no
// error if the connection is gone.
func (t *Tap) SetDone(cookie uint64) error {
	errno := update(t.objs.Flows, unsafe.Pointer(&cookie), unsafe.Pointer(&doneFlow))
	if errno != 0 && errno != unix.ENOENT {
		return fmt.Errorf("end the recording of a connection: %w", errno)
	}
	return nil
}

var doneFlow = tapFlow{State: tapFlowStateDONE}

// Forget takes a connection for one that found no room: nothing more is told of it, its
// Closed neither, and another can have its place. It is no error if it is gone.
func (t *Tap) Forget(cookie uint64) error {
	if err := t.objs.Flows.Delete(&cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget a connection: %w", err)
	}
	return nil
}

// update is BPF_MAP_UPDATE_ELEM with BPF_EXIST (bpf(2)), without what Map.Update
// does for values of any type: each login needs one.
func update(m *ebpf.Map, key, value unsafe.Pointer) unix.Errno {
	attr := struct {
		fd         uint32
		_          uint32
		key, value unsafe.Pointer
		flags      uint64
	}{fd: uint32(m.FD()), key: key, value: value, flags: unix.BPF_EXIST}
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return errno
}

package bpf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace that is held open. The kernel programs know it
// by its inode number, which no other namespace gets while it is held.
type Netns struct {
	file  *os.File
	inode uint32
}

// ErrOwnPIDs says that this process has a PID namespace of its own.
var ErrOwnPIDs = errors.New("processes have other numbers here than for the kernel (inside a container?)")

// initialPIDs is the inode number of the initial PID namespace, which is fixed
// (PROC_PID_INIT_INO, linux/nsfs.h).
const initialPIDs = 0xEFFFFFFC

// InitialPIDs returns nil if the processes have the numbers here that the programs
// see, and else ErrOwnPIDs: then no server can be named to them.
func InitialPIDs() error {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return fmt.Errorf("look at the PID namespace: %w", err)
	}
	if st.Ino != initialPIDs {
		return ErrOwnPIDs
	}
	return nil
}

// OwnNetns is the path of the namespace that the process is in.
const OwnNetns = "/proc/self/ns/net"

// OpenNetns opens a namespace by path: OwnNetns, /proc/PID/ns/net, or a name
// that `ip netns add` made.
func OpenNetns(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	ns, err := newNetns(f)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ns, nil
}

// newNetns takes over f.
func newNetns(f *os.File) (*Netns, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = fmt.Errorf("it is another kind of namespace (%#x)", kind)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("ask for the namespace's type: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read the inode number: %w", err)
	}
	// The kernel keeps it in 32 bits (struct ns_common).
	return &Netns{file: f, inode: uint32(st.Ino)}, nil
}

// ID is the namespace's inode number, as in Opened.Netns.
func (ns *Netns) ID() uint64 { return uint64(ns.inode) }

// FD is the file descriptor, valid until Close.
func (ns *Netns) FD() int { return int(ns.file.Fd()) }

// Close drops the reference.
func (ns *Netns) Close() error { return ns.file.Close() }

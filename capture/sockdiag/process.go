package sockdiag

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process holds a listener.
type Process struct {
	PID int
	// Start tells two processes with one number apart (Stat.Start).
	Start uint64
	// Name is the command name that the process gives itself (proc_pid_comm(5)).
	Name string
	// Program is the name of its executable, without folders; empty if it
	// cannot be told.
	Program string

	fd string // the descriptor that it held the listener by, in /proc
}

// Title is the name of its executable, or else what it calls itself.
func (p Process) Title() string { return cmp.Or(p.Program, p.Name) }

func (p Process) String() string { return fmt.Sprintf("%s (pid %d)", p.Title(), p.PID) }

// forwarders are programs that take connections only to hand them on, often into a
// container or a guest (QEMU's hostfwd), whose "mail server" may be anybody's. Mail
// proxies such as HAProxy and nginx are not among them: who runs one vouches for what
// is behind it. SSH servers listen for those who log in there, Dropbear as root for anybody.
var forwarders = map[string]bool{
	"docker-proxy": true, "dockerd": true, "com.docker.backend": true, "vpnkit": true,
	"rootlesskit": true, "rootlessport": true, "slirp4netns": true,
	"pasta": true, "pasta.avx2": true, "passt": true, "passt.avx2": true, "gvproxy": true, "gvforwarder": true,
	"conmon": true, "containerd-shim": true, "kube-proxy": true, "kubectl": true,
	"qemu-system-x86_64": true, "qemu-system-i386": true, "qemu-system-aarch64": true, "qemu-kvm": true, "kvm": true,
	"VBoxHeadless": true, "VirtualBoxVM": true,
	"lxd": true, "incusd": true, "limactl": true,
	"socat": true, "socat1": true, "nc": true, "nc.openbsd": true, "nc.traditional": true, "ncat": true, "netcat": true,
	"rinetd": true, "redir": true, "6tunnel": true, "simpleproxy": true, "portfwd": true, "systemd-socket-proxyd": true,
	"sslh": true, "sslh-select": true, "sslh-ev": true,
	"ssh": true, "sshd": true, "sshd-session": true, "dropbear": true, "autossh": true, "frps": true, "frpc": true, "chisel": true, "wstunnel": true,
}

// nameLimit is the length to which the kernel cuts command names
// (TASK_COMM_LEN without the final NUL).
const nameLimit = 15

// knownForwarder says whether a program of this name only hands connections
// on, so that its listeners are never believed. The name may be cut to what
// the kernel keeps of a command name.
func knownForwarder(name string) bool {
	if forwarders[name] {
		return true
	}
	if len(name) != nameLimit {
		return false
	}
	for f := range forwarders {
		if strings.HasPrefix(f, name) {
			return true
		}
	}
	return false
}

// Forwards says whether the process is a known forwarder by either name.
func (p Process) Forwards() bool { return knownForwarder(p.Name) || knownForwarder(p.Program) }

// starters are programs that hold listeners for others: init, that of a container or of a
// user (systemd.socket(5)), what such a one has forked that has not become its program yet,
// and the shell of a script that becomes one, as when what a forwarder leads to is there.
var starters = map[string]bool{
	"systemd": true, "systemd-executor": true,
	"sh": true, "dash": true, "bash": true, "ash": true, "ksh": true, "mksh": true, "zsh": true, "fish": true,
}

// Starts says whether the process holds listeners for programs that it starts or becomes.
func (p Process) Starts() bool { return p.PID == 1 || starters[p.Title()] }

// started says whether one of a listener's holders is there to answer, and not only to start,
// with the first connection or with each, who does. That may be a program that only forwards,
// and was not there to be seen.
func started(holders []Process) bool {
	return slices.ContainsFunc(holders, func(p Process) bool { return !p.Starts() })
}

// holders finds the processes that hold the sockets of these inodes; the result has
// an entry for each of them, also with an error. Processes come and go while it looks,
// so what vanishes is no error; but a process that cannot be looked at for want of a
// descriptor, say, may be the one that makes a listener not to be believed. Those beyond
// the share of who started them hold nothing: a listener that they alone hold is not
// believed either.
func holders(proc fs.FS, inodes map[uint32]bool, limit int) (found map[uint32][]Process, failed error) {
	found = make(map[uint32][]Process)
	for inode := range inodes {
		found[inode] = nil
	}
	if len(inodes) == 0 {
		return found, nil
	}
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return found, fmt.Errorf("list the processes: %w", err)
	}
	room := newRoom(proc, limit)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fds, err := room.descriptors(entry.Name())
		if errors.Is(err, errTooManyFiles) {
			return found, err
		}
		failed = cmp.Or(failed, unseen(err), holds(proc, pid, fds, found))
	}
	return found, failed
}

// holds notes a process with each of the sockets in found that its descriptors lead to.
func holds(proc fs.FS, pid int, fds []fs.DirEntry, found map[uint32][]Process) (failed error) {
	var process *Process
	for _, fd := range fds {
		name := path.Join(strconv.Itoa(pid), "fd", fd.Name())
		inode, err := socketInode(proc, name)
		failed = cmp.Or(failed, unseen(err))
		held, sought := found[inode]
		if !sought {
			continue
		}
		if process == nil {
			if process, err = describe(proc, pid); err != nil {
				return cmp.Or(failed, unseen(err))
			}
		}
		if n := len(held); n == 0 || held[n-1].PID != pid {
			holder := *process
			holder.fd = name
			found[inode] = append(held, holder)
		}
	}
	return failed
}

// unseen is nil for no error, and for that about a process that is gone, or that we may not
// look at.
func unseen(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return fmt.Errorf("look at the processes: %w", err)
}

// descriptors lists the first of a process, by their numbers.
func descriptors(proc fs.FS, pid string) ([]fs.DirEntry, error) {
	folder, err := proc.Open(path.Join(pid, "fd"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }() // it was only read
	list, ok := folder.(fs.ReadDirFile)
	if !ok {
		return nil, fmt.Errorf("%s/fd: %w", pid, errors.ErrUnsupported)
	}
	fds, err := list.ReadDir(processFiles)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return fds, err
}

// socketInode reads a descriptor's link, which is "socket:[INODE]" for sockets; 0 is none.
func socketInode(proc fs.FS, name string) (uint32, error) {
	target, err := fs.ReadLink(proc, name)
	if err != nil {
		return 0, err
	}
	number, isSocket := strings.CutPrefix(target, "socket:[")
	if !isSocket {
		return 0, nil
	}
	inode, _ := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
	return uint32(inode), nil
}

// describe reads what tells a process apart, and its names; a name that cannot
// be read stays empty.
func describe(proc fs.FS, pid int) (*Process, error) {
	stat, err := ReadStat(proc, pid)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, Start: stat.Start, Name: stat.Name}
	exe, err := fs.ReadLink(proc, path.Join(strconv.Itoa(pid), "exe"))
	if err == nil && exe != "" {
		p.Program = path.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	return p, nil
}

// still says whether the process is the one that was described, and has the
// listener: one that was seen between fork and exec had all of its parent's. Where
// exec has made another program of it, it is described again.
func (p Process) still(proc fs.FS, listener uint32) (now Process, holds bool) {
	stat, err := ReadStat(proc, p.PID)
	if err != nil || stat.Start != p.Start || stat.State == 'Z' {
		return p, false
	}
	if inode, err := socketInode(proc, p.fd); err != nil || inode != listener {
		return p, false
	}
	if stat.Name == p.Name {
		return p, true
	}
	other, err := describe(proc, p.PID)
	if err != nil || other.Start != p.Start {
		return p, false
	}
	other.fd = p.fd
	return *other, true
}

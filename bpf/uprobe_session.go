package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// attachUprobeSession is BPF_TRACE_UPROBE_SESSION of linux/bpf.h: one program
// sees the entries and, if it wants, the returns. The package ebpf has no links
// for it yet.
const attachUprobeSession ebpf.AttachType = 57

// HaveUprobeSession probes for links that pair each entry of a function with its
// return. The tap works without; then each call that is not of interest costs
// two traps instead of one.
func HaveUprobeSession() error {
	return needs("uprobe session links", "6.13", probeUprobeSession())
}

// probeUprobeSession: a link on a directory cannot be; where the type is known the
// kernel says that.
var probeUprobeSession = remember(func() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "probe_session", Type: ebpf.Kprobe, AttachType: attachUprobeSession, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) {
		return ebpf.ErrNotSupported
	}
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }() // it is attached nowhere
	l, err := linkUprobeSession("/", program, []uint64{0}, []uint64{0})
	switch {
	case err == nil:
		return errors.Join(errors.New("the kernel attached uprobes to a directory"), l.Close())
	case errors.Is(err, unix.EBADF):
		return nil
	case errors.Is(err, unix.EINVAL):
		return ebpf.ErrNotSupported
	}
	return err
})

// linkCreate is the part of union bpf_attr that BPF_LINK_CREATE reads for
// uprobe_multi links (linux/bpf.h).
type linkCreate struct {
	program, target, attachType, flags uint32

	path, offsets, refCtrOffsets, cookies uint64
	count, uprobeFlags, pid, _            uint32
}

// linkUprobeSession attaches a program to functions of a file, by their offsets
// in it; each is known to the program by its cookie.
func linkUprobeSession(path string, program *ebpf.Program, offsets, cookies []uint64) (io.Closer, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", path, err)
	}
	var pins runtime.Pinner // the kernel reads what these numbers point to
	defer pins.Unpin()
	pins.Pin(name)
	pins.Pin(&offsets[0])
	pins.Pin(&cookies[0])
	attr := linkCreate{
		program: uint32(program.FD()), attachType: uint32(attachUprobeSession),
		path:    uint64(uintptr(unsafe.Pointer(name))),
		offsets: uint64(uintptr(unsafe.Pointer(&offsets[0]))), cookies: uint64(uintptr(unsafe.Pointer(&cookies[0]))),
		count: uint32(len(offsets)),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	if errno != 0 {
		return nil, fmt.Errorf("make a uprobe session link: %w", errno)
	}
	return os.NewFile(fd, "uprobe session link"), nil
}

// Package process is what the daemon asks for itself from the kernel and the runtime:
// few capabilities, no core file, a turn before others, and little garbage.
package process

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
)

// keptCapabilities is what the daemon needs once it has started. All others of
// capabilities(7) are given up.
var keptCapabilities = []int{
	unix.CAP_NET_ADMIN,       // the gate, sock_diag, netlink
	unix.CAP_BPF,             // to mark connections as done
	unix.CAP_SYS_PTRACE,      // whose descriptors a listener is (/proc/PID/fd)
	unix.CAP_DAC_READ_SEARCH, // the same, and files in others' folders
	unix.CAP_DAC_OVERRIDE,    // to write files in others' folders
	unix.CAP_CHOWN,           // and to keep their owner
	unix.CAP_FOWNER,          // and their mode
}

// tlsCapabilities is what it takes besides to attach to the TLS libraries of
// servers that start later. Without uprobe_multi links it takes CAP_SYS_ADMIN
// too: perf events on uprobes are refused to less on some kernels.
var tlsCapabilities = []int{
	unix.CAP_PERFMON,            // uprobes
	unix.CAP_CHECKPOINT_RESTORE, // the files that others have mapped (/proc/PID/map_files)
}

// DropCapabilities gives up, in every thread, what is not kept. It works in
// programs that are linked without C, as the released ones are; in others it
// reports errors.ErrUnsupported.
func DropCapabilities(tls bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held, kept [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	keep := keptCapabilities
	if tls {
		keep = slices.Concat(keep, tlsCapabilities)
		if bpf.HaveUprobeMulti() != nil {
			keep = append(keep, unix.CAP_SYS_ADMIN)
		}
	}
	for _, c := range keep {
		bit := uint32(1) << (c % 32)
		kept[c/32].Permitted |= bit & held[c/32].Permitted
		kept[c/32].Effective |= bit & held[c/32].Effective
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&kept[0])), 0)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.ErrUnsupported
	}
	return fmt.Errorf("give up capabilities: %w", errno)
}

// ForbidCore keeps the process's memory out of core files: packets that the tap
// holds for a moment have passwords in them.
func ForbidCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}

package bpf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// FeatureError says that this kernel (or this process, if Err is
// os.ErrPermission) cannot have a feature that the tap needs.
type FeatureError struct {
	// Feature is what is missing, in words.
	Feature string
	// Since is the first Linux release that has it.
	Since string
	Err   error
}

func (e *FeatureError) Error() string {
	if errors.Is(e.Err, ebpf.ErrNotSupported) {
		return fmt.Sprintf("this kernel has no %s (Linux %s or newer has)", e.Feature, e.Since)
	}
	return fmt.Sprintf("probe for %s (Linux %s or newer): %v", e.Feature, e.Since, e.Err)
}

func (e *FeatureError) Unwrap() error { return e.Err }

func needs(feature, since string, err error) error {
	if err == nil {
		return nil
	}
	return &FeatureError{Feature: feature, Since: since, Err: err}
}

// Lacks says whether err tells that a feature is not there for good, and not that a probe
// failed: want of memory, say, passes.
func Lacks(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, errLockedDown)
}

// remember asks probe until it could tell, as package features does for the other probes.
func remember(probe func() error) func() error {
	var mu sync.Mutex
	var answer error
	told := false
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if !told {
			answer = probe()
			told = answer == nil || Lacks(answer)
		}
		return answer
	}
}

var loadBTF = remember(func() error {
	_, err := btf.LoadKernelSpec()
	return err
})

// probeSocketFields is for the cast through which a sockops program reads the owner and
// the network namespace of a socket.
func probeSocketFields() error {
	err := features.HaveProgramHelper(ebpf.SockOps, asm.FnSkcToTcpSock)
	if errors.Is(err, ebpf.ErrNotSupported) && !holdsPerfmon() {
		// The kernel does not tell these two apart.
		err = fmt.Errorf("CAP_PERFMON is not held: %w", os.ErrPermission)
	}
	return err
}

// holdsPerfmon says whether this process has CAP_PERFMON (capabilities(7)), or the
// one that includes it.
func holdsPerfmon() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		return false
	}
	has := func(c int) bool { return held[c/32].Effective&(1<<(c%32)) != 0 }
	return has(unix.CAP_PERFMON) || has(unix.CAP_SYS_ADMIN)
}

// HaveUprobes probes for the way to see the calls of a TLS library. The tap
// works without, and then sees no plaintext.
func HaveUprobes() error {
	return needs("uprobes for BPF programs (CONFIG_UPROBE_EVENTS, CONFIG_BPF_EVENTS)", "4.17", probeUprobes())
}

var probeUprobes = remember(func() error {
	if _, err := thisProcessor(); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/bus/event_source/devices/uprobe/type"); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("perf events on uprobes: %w", ebpf.ErrNotSupported)
	} else if err != nil {
		return err
	}
	err := errors.Join(
		features.HaveProgramType(ebpf.Kprobe),
		features.HaveProgramHelper(ebpf.Kprobe, asm.FnProbeReadUser),
		features.HaveProgramHelper(ebpf.Kprobe, asm.FnRingbufReserve),
	)
	if errors.Is(err, ebpf.ErrNotSupported) && lockedDown("/sys/kernel/security/lockdown") {
		return errLockedDown
	}
	return err
})

// errLockedDown says why programs may not read memory.
var errLockedDown = errors.New("the kernel is locked down for confidentiality (kernel_lockdown(7))")

// lockedDown says whether the kernel keeps memory from BPF programs. It then says of the
// functions that read it that there are none.
func lockedDown(file string) bool {
	modes, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(modes), "[confidentiality]")
}

// HaveUprobeMulti probes for links that hold many uprobes. The tap works without
// them, through perf events, for which some kernels want CAP_SYS_ADMIN.
func HaveUprobeMulti() error {
	return needs("uprobe_multi links", "6.6", features.HaveBPFLinkUprobeMulti())
}

// HaveTCX probes for links of programs to interfaces.
func HaveTCX() error { return needs("tcx links", "6.6", probeTCX()) }

// probeTCX: no interface has the index.
var probeTCX = remember(func() error {
	prog, err := ebpf.NewProgram(emptyProgram())
	if err != nil {
		return err
	}
	_, err = link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(err, prog.Close())
})

// emptyProgram is one for interfaces that does nothing.
func emptyProgram() *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	}
}

// Feature is one thing that the tap needs of the kernel.
type Feature struct {
	Name string
	// Probe returns nil or a *FeatureError. It asks the kernel until that could
	// tell, and remembers the answer.
	Probe func() error
}

// feature is one that a probe is for, which remembers the answer.
func feature(name, words, since string, probe func() error) Feature {
	return Feature{name, func() error { return needs(words, since, probe()) }}
}

var (
	// ringBuffer is the way records come to user space, typeInfo the kernel's description
	// of its own types.
	ringBuffer = feature("ring buffer", "BPF ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) })
	typeInfo   = feature("BTF", "BTF type information (CONFIG_DEBUG_INFO_BTF)", "5.4", loadBTF)
)

// Features lists all that the tap needs.
func Features() []Feature {
	return []Feature{
		feature("cgroup_skb", "cgroup_skb programs", "4.10", func() error { return features.HaveProgramType(ebpf.CGroupSKB) }),
		feature("sockops", "sockops programs", "4.13", func() error { return features.HaveProgramType(ebpf.SockOps) }),
		ringBuffer,
		typeInfo,
		feature("socket fields", "bpf_skc_to_tcp_sock in sockops programs", "5.10", probeSocketFields),
	}
}

// WireFeatures lists all that the tap on interfaces needs.
func WireFeatures() []Feature { return []Feature{{"tcx", HaveTCX}, ringBuffer, typeInfo} }

// missing returns what of features there is not, nil if all are there.
func missing(features []Feature) error {
	var errs []error
	for _, f := range features {
		errs = append(errs, f.Probe())
	}
	return errors.Join(errs...)
}

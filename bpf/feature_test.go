package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestFeatures fails where a feature is missing: a kernel that runs the tests
// is new enough.
func TestFeatures(t *testing.T) {
	bpftest.RequireRoot(t)
	for _, f := range bpf.Features() {
		if err := f.Probe(); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

func TestWireFeatures(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	for _, f := range bpf.WireFeatures() {
		if err := f.Probe(); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

func TestFeatureErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{
			fmt.Errorf("map type RingBuf: %w", ebpf.ErrNotSupported),
			"this kernel has no BPF ring buffers (Linux 5.8 or newer has)",
		},
		{os.ErrPermission, "probe for BPF ring buffers (Linux 5.8 or newer): permission denied"},
	} {
		err := &bpf.FeatureError{Feature: "BPF ring buffers", Since: "5.8", Err: test.err}
		if err.Error() != test.want {
			t.Errorf("error is %q, want %q", err, test.want)
		}
		if !errors.Is(err, test.err) {
			t.Errorf("%v does not wrap %v", err, test.err)
		}
	}
}

func TestOpenNetns(t *testing.T) {
	for _, path := range []string{"/proc/self/ns/nothing", "/proc/self/ns/mnt", "/proc/self/status", "/proc/self/fd"} {
		if ns, err := bpf.OpenNetns(path); err == nil {
			bpftest.Close(t, ns)
			t.Errorf("%s opened as a network namespace", path)
		}
	}
	ns, err := bpf.OpenNetns(bpf.OwnNetns)
	must(t, err)
	defer bpftest.Close(t, ns)
	want, err := os.Readlink(bpf.OwnNetns)
	if got := fmt.Sprintf("net:[%d]", ns.ID()); err != nil || got != want {
		t.Errorf("namespace is %s, want %s (%v)", got, want, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	bpftest.RequireRoot(t)
	for _, test := range []struct {
		name string
		o    bpf.Options
	}{
		{"no such cgroup", bpf.Options{Cgroup: "/proc/self/nothing"}},
		{"not a cgroup", bpf.Options{Cgroup: "/proc"}},
		{"ring size", bpf.Options{RingBytes: 4097}},
		{"too many owners", bpf.Options{Owners: make1025()}},
	} {
		if tap, err := bpf.Load(test.o); err == nil {
			bpftest.Close(t, tap)
			t.Errorf("%s: loaded", test.name)
		}
	}
}

// TestLoadBesideAProgramThatStandsAlone: whoever attached it did not think of others, and
// the kernel says no more than that it is not permitted.
func TestLoadBesideAProgramThatStandsAlone(t *testing.T) {
	bpftest.RequireRoot(t)
	root, err := bpf.RootCgroup()
	must(t, err)
	group, err := os.MkdirTemp(root, "relaygate-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(group)) })
	folder, err := os.Open(group)
	must(t, err)
	defer bpftest.Close(t, folder)
	alone, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer bpftest.Close(t, alone)
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(folder.Fd()), Program: alone, Attach: ebpf.AttachCGroupInetEgress,
	}))
	tap, err := bpf.Load(bpf.Options{Cgroup: group})
	if err == nil {
		bpftest.Close(t, tap)
	}
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "bpftool cgroup show "+group) {
		t.Errorf("it says %v", err)
	}
}

func make1025() []uint32 {
	uids := make([]uint32, 1025)
	for i := range uids {
		uids[i] = uint32(i)
	}
	return uids
}

// TestInitialPIDs runs itself again in a PID namespace of its own.
func TestInitialPIDs(t *testing.T) {
	if os.Getenv("RELAYGATE_OWN_PIDS") != "" {
		if err := bpf.InitialPIDs(); !errors.Is(err, bpf.ErrOwnPIDs) {
			t.Fatal(err)
		}
		return
	}
	bpftest.RequireRoot(t)
	if err := bpf.InitialPIDs(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInitialPIDs$")
	cmd.Env = append(os.Environ(), "RELAYGATE_OWN_PIDS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

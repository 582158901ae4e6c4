package bpf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"relaygate/bpf/bpftest"
)

// A kernel that is locked down refuses programs that read memory. So the taps have none
// there, and clear text is read all the same.
func TestLockedDownTaps(t *testing.T) {
	bpftest.RequireRoot(t)
	must(t, liftMemoryLimit())
	for _, test := range []struct {
		name   string
		load   func() (*ebpf.CollectionSpec, error)
		access tapAccess
		loads  bool
	}{
		{"tap, no access", loadTap, tapAccessNO_ACCESS, true},
		{"tap, by casts", loadTap, tapAccessBY_CASTS, true},
		{"tap, by helper", loadTap, tapAccessBY_HELPER, false},
		{"wire, by casts", loadWire, tapAccessBY_CASTS, true},
	} {
		spec, err := test.load()
		must(t, err)
		must(t, spec.Variables[tapVarKernelAccess].Set(test.access))
		if forbid(spec) == 0 {
			t.Errorf("%s: there is nothing to be refused", test.name)
		}
		if test.access == tapAccessBY_CASTS && BestAccess(t) != test.access {
			continue // an old kernel
		}
		programs, err := ebpf.NewCollection(spec)
		if err == nil {
			programs.Close()
		}
		if loads := err == nil; loads != test.loads {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// forbid makes calls that no kernel knows of those that read memory; it says of how many.
func forbid(spec *ebpf.CollectionSpec) (n int) {
	reading := []asm.BuiltinFunc{
		asm.FnProbeRead, asm.FnProbeReadStr, asm.FnProbeReadKernel, asm.FnProbeReadKernelStr, asm.FnProbeReadUser, asm.FnProbeReadUserStr,
	}
	for _, program := range spec.Programs {
		for i := range program.Instructions {
			call := &program.Instructions[i]
			if call.IsBuiltinCall() && slices.Contains(reading, asm.BuiltinFunc(call.Constant)) {
				call.Constant = 1 << 20
				n++
			}
		}
	}
	return n
}

func TestLockedDown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lockdown")
	if lockedDown(file) {
		t.Error("locked down without a word")
	}
	for modes, want := range map[string]bool{
		"[none] integrity confidentiality\n": false,
		"none [integrity] confidentiality\n": false,
		"none integrity [confidentiality]\n": true,
	} {
		must(t, os.WriteFile(file, []byte(modes), 0o600))
		if got := lockedDown(file); got != want {
			t.Errorf("%q: locked down %v", modes, got)
		}
	}
}

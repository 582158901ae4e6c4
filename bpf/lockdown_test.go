package bpf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A kernel that is locked down refuses programs that read memory. So the taps have
// none, and clear text is read there too.
func TestTapsReadNoMemory(t *testing.T) {
	reading := []asm.BuiltinFunc{
		asm.FnProbeRead, asm.FnProbeReadStr, asm.FnProbeReadKernel, asm.FnProbeReadKernelStr, asm.FnProbeReadUser, asm.FnProbeReadUserStr,
	}
	for _, test := range []struct {
		name string
		load func() (*ebpf.CollectionSpec, error)
		want bool
	}{{"tap", loadTap, false}, {"wire", loadWire, false}, {"tls", loadTls, true}} {
		spec, err := test.load()
		if err != nil {
			t.Fatal(err)
		}
		for name, program := range spec.Programs {
			reads := slices.ContainsFunc(program.Instructions, func(i asm.Instruction) bool {
				return i.IsBuiltinCall() && slices.Contains(reading, asm.BuiltinFunc(i.Constant))
			})
			if reads != test.want {
				t.Errorf("%s: program %s reads memory: %v", test.name, name, reads)
			}
		}
	}
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
		if err := os.WriteFile(file, []byte(modes), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lockedDown(file); got != want {
			t.Errorf("%q: locked down %v", modes, got)
		}
	}
}

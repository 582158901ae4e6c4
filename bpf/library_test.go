package bpf

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// TestLibraryProgramsLoad is for kernels whose verifier is less clever.
func TestLibraryProgramsLoad(t *testing.T) {
	b := newBench(t, 0)
	p := &LibraryProbes{tap: b.Tap}
	defer func() {
		if err := p.release(); err != nil {
			t.Error(err)
		}
	}()
	if err := p.load(); err != nil {
		var rejected *ebpf.VerifierError
		if errors.As(err, &rejected) {
			t.Fatalf("%+v", rejected)
		}
		t.Fatal(err)
	}
}

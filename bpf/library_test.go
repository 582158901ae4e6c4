package bpf

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// TestLibraryProgramsLoad is for kernels whose verifier is less clever.
func TestLibraryProgramsLoad(t *testing.T) {
	b := newBench(t, 0)
	for way := byPerf; way <= bestWay(); way++ {
		p := &LibraryProbes{tap: b.Tap, way: way}
		for _, l := range []layout{{random: 0x140, role: 0x38}, {random: 0x98, pointer: 0xa8, role: 0x38}} {
			err := p.load(tlsMachineX8664, l)
			if rejected := (*ebpf.VerifierError)(nil); errors.As(err, &rejected) {
				t.Fatalf("%v: %+v", way, rejected)
			}
			if err := errors.Join(err, p.release()); err != nil {
				t.Fatalf("%v: %v", way, err)
			}
		}
	}
}

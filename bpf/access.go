package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// letSee tells the tap's programs how they see what the kernel knows of a packet.
func letSee(spec *ebpf.CollectionSpec, access *tapAccess) error {
	if access == nil {
		best, err := bestAccess()
		if err != nil {
			return err
		}
		access = &best
	}
	if err := spec.Variables[tapVarKernelAccess].Set(*access); err != nil {
		return fmt.Errorf("let the tap's programs see packets: %w", err)
	}
	return nil
}

// HaveLent returns nil if the tap sees of a client in this kernel that it can still change
// what it sent. A Wire always does.
func HaveLent() error {
	access, err := bestAccess()
	if err == nil && access == tapAccessNO_ACCESS {
		err = errLockedDown
	}
	return err
}

func bestAccess() (tapAccess, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, fmt.Errorf("read the kernel's types: %w", err)
	}
	var cast *btf.Func
	switch err = kernel.TypeByName("bpf_rdonly_cast", &cast); {
	case err == nil:
		return tapAccessBY_CASTS, nil
	case !errors.Is(err, btf.ErrNotFound):
		return 0, fmt.Errorf("look for casts in the kernel: %w", err)
	}
	switch err = features.HaveProgramHelper(ebpf.CGroupSKB, asm.FnProbeReadKernel); {
	case err == nil:
		return tapAccessBY_HELPER, nil
	case !errors.Is(err, ebpf.ErrNotSupported):
		return 0, fmt.Errorf("probe for programs that read the kernel's memory: %w", err)
	}
	return tapAccessNO_ACCESS, nil // it is locked down for confidentiality
}

package bpf

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// liftMemoryLimit lifts RLIMIT_MEMLOCK, to which kernels before 5.11 charge maps
// (getrlimit(2)). Later ones do not, so who may not lift it goes on: a kernel that
// minds refuses the maps, and the error then speaks of the limit.
//
// The package ebpf/rlimit does this too, but asks the kernel with bpf(2) as every
// verb begins, also those that ordinary users run.
func liftMemoryLimit() error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("lift the memory limit for BPF maps: %w", err)
	}
	return nil
}

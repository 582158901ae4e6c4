package bpf

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Monotonic is CLOCK_MONOTONIC as the kernel's programs read it (bpf_ktime_get_ns),
// in nanoseconds: that of the initial time namespace, from which the process's own
// may be shifted (time_namespaces(7)).
func Monotonic() (uint64, error) { return read(unix.CLOCK_MONOTONIC, "monotonic") }

// Boottime is CLOCK_BOOTTIME in the same manner.
func Boottime() (uint64, error) { return read(unix.CLOCK_BOOTTIME, "boottime") }

func read(clock int32, name string) (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(now.Nano() - shifts()[name]), nil
}

// shifts are how far the clocks of this time namespace are ahead, in nanoseconds.
// They never change.
var shifts = sync.OnceValue(func() map[string]int64 {
	text, _ := os.ReadFile("/proc/self/timens_offsets") // none where the kernel has none
	return parseShifts(string(text))
})

// parseShifts reads lines of a clock's name, seconds and nanoseconds.
func parseShifts(text string) map[string]int64 {
	ahead := make(map[string]int64)
	for line := range strings.Lines(text) {
		var name string
		var seconds, nano int64
		if n, _ := fmt.Sscan(line, &name, &seconds, &nano); n == 3 {
			ahead[name] = seconds*1e9 + nano
		}
	}
	return ahead
}

// Package clock measures time that the wall clock does not tell: since boot, and while
// the machine slept.
package clock

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz/grant"
	"relaygate/bpf"
)

// Boot is this moment by the clock since boot.
func Boot() grant.Boot {
	at, err := bpf.Boottime()
	if err != nil {
		return grant.Boot{} // then the wall clock counts
	}
	return grant.Boot{ID: BootID(), At: time.Duration(at)}
}

// Moment is the clock since boot at a moment. A moment later by it is one at most:
// suspend is not in it.
type Moment struct {
	now  time.Time
	boot grant.Boot
}

// At is the clock since boot at a moment soon after.
func (c *Moment) At(now time.Time) grant.Boot {
	if c.boot.ID == "" {
		return grant.Boot{}
	}
	return grant.Boot{ID: c.boot.ID, At: c.boot.At + now.Sub(c.now)}
}

// Now is this moment; now is it by the wall clock.
func Now(now time.Time) Moment { return Moment{now, Boot()} }

// BootID names this boot; "" if the kernel does not tell.
var BootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})

// Sleep measures suspend: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC, by which
// Go and the kernel's elements count, does not.
type Sleep struct {
	ahead time.Duration // how far the one clock was before the other
	known bool
}

// noise is less than a sleep: read one after the other, the clocks differ a little.
const noise = 10 * time.Millisecond

// Since returns how long the machine slept since the last call, 0 for the first.
func (s *Sleep) Since() time.Duration {
	var before, since, after unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &before) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) != nil ||
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &after) != nil {
		return 0
	}
	if after.Nano()-before.Nano() >= int64(noise) {
		return 0 // others had the processor meanwhile: the next call will tell
	}
	return s.slept(time.Duration(since.Nano() - before.Nano()))
}

// slept is Since for clocks that are so far apart. Of a machine that never slept
// before, they are together.
func (s *Sleep) slept(ahead time.Duration) time.Duration {
	slept := ahead - s.ahead
	switch {
	case !s.known:
		s.ahead, s.known = ahead, true
		return 0
	case slept < noise:
		return 0
	}
	s.ahead = ahead
	return slept
}

//go:build linux

package daemon

import (
	"fmt"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// watchdog tells systemd that the daemon lives: that the owner's loop turns, and
// the gate's. It is the owner's.
type watchdog struct {
	every time.Duration // 0: nobody asks
	last  time.Time
	gate  func() time.Time // when its loop last turned
	log   *slog.Logger
}

// gateHangs is how long the gate may take for one turn: loading a million
// members takes seconds.
const gateHangs = 20 * time.Second

func newWatchdog(gate func() time.Time, log *slog.Logger) watchdog {
	within, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog cannot be served", "error", err)
	}
	return watchdog{every: within / 3, gate: gate, log: log}
}

func (w *watchdog) look(now time.Time) {
	if w.every == 0 || now.Sub(w.last) < w.every {
		return
	}
	if now.Sub(w.gate()) > gateHangs {
		return // let systemd end what hangs
	}
	w.last = now
	if _, err := sd.SdNotify(false, sd.SdNotifyWatchdog); err != nil {
		w.log.Warn("cannot tell systemd", "error", err)
	}
}

// reloading and reloaded tell systemd what SIGHUP does (sd_notify(3)).
func reloading() (bool, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return false, fmt.Errorf("read the clock: %w", err)
	}
	return sd.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, ts.Nano()/1000))
}

// sleep measures suspend: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC, by which
// Go and the kernel's elements count, does not.
type sleep struct {
	ahead time.Duration // how far the one clock was before the other
	known bool
}

// noise is less than a sleep: read one after the other, the clocks differ a little.
const noise = 10 * time.Millisecond

// since returns how long the machine slept since the last call, 0 for the first.
func (s *sleep) since() time.Duration {
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

// slept is since for clocks that are so far apart. Of a machine that never slept
// before, they are together.
func (s *sleep) slept(ahead time.Duration) time.Duration {
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

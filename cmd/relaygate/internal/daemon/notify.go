//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
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
	tell(w.log, sd.SdNotifyWatchdog, watchdogWithin)
}

// How long is waited for a systemd that reads nothing, as where it froze: sd.SdNotify does
// so for good. Each sign of life is one of three, and the loop that decides waits.
const (
	notifyWithin   = time.Second
	watchdogWithin = 10 * time.Millisecond
)

// notify tells systemd how the daemon is, if it started it (sd_notify(3)).
func notify(log *slog.Logger, state string) { tell(log, state, notifyWithin) }

func tell(log *slog.Logger, state string, within time.Duration) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if err := send(path, state, within); err != nil {
		log.Warn("cannot tell systemd", "error", err)
	}
}

func send(path, state string, within time.Duration) (err error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return err
}

// notifyReloading tells it when a reload began.
func notifyReloading(log *slog.Logger) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		log.Warn("cannot tell systemd", "error", err)
		return
	}
	notify(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, ts.Nano()/1000))
}

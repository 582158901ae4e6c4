//go:build linux

package daemon

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
)

// A SIGHUP that comes during the start ends nothing, and is served behind it.
func TestReloadDuringTheStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{log: slog.New(slog.DiscardHandler), hub: control.NewHub(), gate: gate.Discard()}
	d.opts.Reload = func() (*config.Config, error) {
		cancel() // it was read
		return nil, io.ErrUnexpectedEOF
	}
	var stop func()
	d.hup, stop = hangUps()
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := d.runReload(ctx); err != nil {
		t.Error(err)
	}
	if words := d.reloadError.Load(); words == nil || !strings.Contains(*words, "the former configuration stays") {
		t.Errorf("the reload is told as %v", words)
	}
}

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

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
	must(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	must(t, d.runReload(ctx))
	if words := d.reloadError.Load(); words == nil || !strings.Contains(*words, "the former configuration stays") {
		t.Errorf("the reload is told as %v", words)
	}
}

// Who orders a reload is told what came of it, and so is the log.
func TestReloadThatIsOrdered(t *testing.T) {
	var log strings.Builder
	d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil)), hub: control.NewHub(), gate: gate.Discard(), reloads: make(chan reloadOrder)}
	d.opts.Reload = func() (*config.Config, error) { return nil, io.ErrUnexpectedEOF }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.runReload(ctx) }()
	_, err := d.orderReload(ctx, "root", "ticket 4711")
	refusal, ok := errors.AsType[*control.Refusal](err)
	if !ok || refusal.Reason != formerStays+": unexpected EOF" {
		t.Errorf("it is answered: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `by="root (ticket 4711)"`) {
		t.Errorf("the log says %s", log.String())
	}
}

// For how long an address is explained a reload changes too, to more and to less: what
// the journal in memory has forgotten is deleted from the file.
func TestReloadChangesHowLongIsTold(t *testing.T) {
	d := newPipeline(t)
	d.play(t, &player{count: 1})
	now := time.Now()
	for _, retain := range []time.Duration{40 * 24 * time.Hour, time.Hour, 3 * time.Hour} {
		cfg := *d.opts.Config
		cfg.Retain = retain
		must(t, d.owner.reconfigure(now, &cfg))
		for _, tt := range []struct {
			after time.Duration // the grant is over by then
			told  bool
		}{{retain, true}, {retain + 2*time.Hour, false}} {
			story := d.owner.engine.Evidence().Story(netip.MustParseAddr("11.0.0.0"), now.Add(tt.after))
			if len(story) > 0 != tt.told {
				t.Errorf("kept for %v, after %v: %d events", retain, tt.after, len(story))
			}
		}
	}
	must(t, d.close())
}

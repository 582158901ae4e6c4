// Package daemon is `relaygate run`: tasks under one group, which talk by messages.
//
//	livetap ─Event─▶ owner ─element─▶ gate      the nftables socket
//	                   │
//	                   ├─Change─────▶ files     for mail servers
//	                   ├─Change─────▶ keeper    the state file
//	                   ├─prefix─────▶ cutter    connections in progress
//	                   └─Change─────▶ log, watchers
//	control socket ─order, question─▶ owner
//
// The owner is the one goroutine that has flows, dialogues, policy and grants. Nothing
// that it does waits for another task; they ask it for what they need (see connect).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/logging"
	"relaygate/cmd/relaygate/internal/daemon/metrics"
	"relaygate/cmd/relaygate/internal/daemon/process"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
)

// Options say how to run.
type Options struct {
	Config  *config.Config
	Version string
	// Reload reads the configuration again, at SIGHUP.
	Reload func() (*config.Config, error)
	// Log takes the log's lines; Journal says that it is systemd's.
	Log     io.Writer
	Journal bool
}

// task is one part of the daemon. It calls ready once it does its work, and
// returns when ctx is done.
type task struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

// Run is the daemon. It returns nil when ctx is done: then the gate's elements
// stay and run out by themselves.
func Run(ctx context.Context, opts Options) (err error) {
	out := logging.New(opts.Log, opts.Journal)
	defer out.Close()
	log := out.Logger
	// Who reads the log may go away: that ends nothing.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	d := &daemon{opts: opts, log: log, out: out, hub: control.NewHub(), started: time.Now(), reloads: make(chan reloadOrder)}
	d.config.Store(opts.Config)
	var stop func()
	d.hup, stop = hangUps()
	defer stop()
	if err := process.RaisePriority(); err != nil {
		log.Warn("a storm of logins may overrun relaygate", "error", err)
	}
	// The socket first: it keeps a second daemon from touching the gate.
	if d.socket, err = control.Listen(opts.Config.Socket); err != nil {
		return errors.Join(err, d.forsake(d.opts.Config, err))
	}
	defer func() { err = errors.Join(err, d.socket.Close()) }()
	if err := d.soon(d.start); err != nil {
		return errors.Join(err, d.close(), d.forsake(d.opts.Config, err))
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := process.DropCapabilities(d.tls.On()); err != nil {
		log.Warn("all capabilities are kept", "error", err)
	}
	err = d.tasks(ctx, []task{
		{"tap and grants", atOnce(d.owner.run)},
		{"gate", atOnce(d.gate.Run)},
		{"watch of the gate", atOnce(d.gate.Watch)},
		{"connections", atOnce(d.cutter.run)},
		{"host's network", atOnce(d.followHost)},
		{"state", mayHang(atOnce(d.keeper.Run))},
		{"sessions", atOnce(d.runSurvey)},
		{"tap", atOnce(d.keepTap)},
		{"reload", mayHang(atOnce(d.runReload))},
		{"files", mayHang(d.files.run)},
		{"socket tables", atOnce(d.trust.Run)},
		{"TLS libraries", mayHang(d.tls.Run)},
		{"control socket", atOnce(d.runSocket)},
		{"metrics", atOnce(func(ctx context.Context) error { return d.metrics.Run(ctx, d.snapshot) })},
		{"memory", atOnce(process.BoundGarbage)},
	})
	return errors.Join(err, d.leave())
}

// atOnce is for a task that is ready when it begins.
func atOnce(run func(context.Context) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		return run(ctx)
	}
}

// daemon is what the tasks share. Each field but opts, log, out, hub and started
// belongs to one task after start.
type daemon struct {
	opts    Options
	log     *slog.Logger
	out     *logging.Log // of log
	hub     *control.Hub
	started time.Time
	owner   *owner
	gate    *gate.Gate
	files   *files
	tap     livetap.Tap
	tls     *livetap.TLS
	trust   *livetap.Trust
	cutter  *cutter
	keeper  *keeper.Keeper
	socket  *control.Listener
	metrics *metrics.Endpoint
	hup     <-chan os.Signal
	reloads chan reloadOrder
	// starting: see beginning.
	starting bool

	config      atomic.Pointer[config.Config] // in force
	reloadError atomic.Pointer[string]        // nil: the last reload was good
}

// close closes all. The tap comes behind what has to be kept: to take it from a library the
// kernel waits for each process that has that, which a file system may hold up.
func (d *daemon) close() error {
	var errs []error
	if d.metrics != nil {
		errs = append(errs, d.metrics.Close())
	}
	if d.cutter != nil {
		errs = append(errs, d.cutter.close())
	}
	if d.keeper != nil {
		var eng *engine.Engine
		var counters map[string]uint64
		if d.owner != nil {
			eng, counters = d.owner.engine, d.owner.counters()
		}
		errs = append(errs, d.begun(), d.keeper.Close(eng, counters))
	}
	if d.gate != nil {
		errs = append(errs, d.gate.Close())
	}
	if d.tap != nil {
		ended := make(chan error, 1)
		go func() { ended <- d.tap.Close() }()
		if err := endOf(ended); err != nil {
			errs = append(errs, fmt.Errorf("tap: %w", err))
		}
	}
	if d.trust != nil {
		errs = append(errs, d.trust.Close())
	}
	return errors.Join(errs...)
}

// tasks runs all until one fails or ctx is done.
func (d *daemon) tasks(ctx context.Context, list []task) error {
	g, ctx := errgroup.WithContext(ctx)
	up := make(chan struct{}, len(list))
	for _, t := range list {
		g.Go(func() error {
			if err := t.run(ctx, func() { up <- struct{}{} }); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		for range list {
			select {
			case <-up:
			case <-ctx.Done():
				return nil
			}
		}
		if err := d.begun(); err != nil {
			d.log.Error("the next start will empty the files first", "error", err)
		}
		d.log.Info("ready", "gate", d.gate.Status().Mode, "grants", d.gate.Grants())
		notify(d.log, sd.SdNotifyReady)
		<-ctx.Done()
		notify(d.log, sd.SdNotifyStopping)
		return nil
	})
	return g.Wait()
}

// keepTap keeps the tap where it was put.
func (d *daemon) keepTap(ctx context.Context) error {
	d.tap.Keep(ctx, func(cookies []uint64) error { return d.owner.forget(ctx, cookies) })
	return nil
}

// How long all else waits for what a file system may let hang, when it begins and for its
// end: a million lines take seconds.
const (
	readyWithin = 10 * time.Second
	endWithin   = 5 * time.Second
)

// mayHang is a task that a file system may hold up, for ever: all else is ready without
// it after readyWithin, and what the gate has to do at the end is done all the same.
func mayHang(run func(context.Context, func()) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready = sync.OnceFunc(ready)
		defer time.AfterFunc(readyWithin, ready).Stop()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, ready) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		return endOf(ended)
	}
}

// endOf is the error with which something ends, or that it does not.
func endOf(ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-time.After(endWithin):
		return errors.New("its file system hangs: what it had to do last is not done")
	}
}

// followHost tells the owner what changes in the host's network.
func (d *daemon) followHost(ctx context.Context) error {
	return hostinfo.Follow(ctx,
		func(h authz.Host) { d.owner.setHost(ctx, h) },
		func(err error) { d.log.Warn("the host's network is read again", "error", err) })
}

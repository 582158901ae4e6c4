//go:build linux

// Package daemon is `relaygate run`: tasks under one group. One goroutine owns
// flows, dialogues, policy and grants (owner); one owns the nftables socket
// (gate); the others follow the host's network, write the files and answer the
// control socket. They talk by messages, and nothing that the owner does waits
// for any of them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// Options say how to run.
type Options struct {
	Config  *config.Config
	Version string
	// Log takes the log's lines.
	Log io.Writer
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
	lines := newLogQueue(opts.Log)
	defer lines.close()
	log := slog.New(slog.NewTextHandler(lines, nil))
	d := &daemon{opts: opts, log: log, hub: control.NewHub(), lines: lines, started: time.Now()}
	if err := forbidCore(); err != nil {
		return err
	}
	// The socket first: it keeps a second daemon from touching the gate.
	socket, err := control.Listen(opts.Config.Socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if err := d.start(); err != nil {
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := dropCapabilities(d.tls.finder != nil); err != nil {
		log.Warn("all capabilities are kept", "error", err)
	}
	serve := func(ctx context.Context, ready func()) error {
		ready()
		return control.Serve(ctx, socket, d, d.hub)
	}
	err = d.tasks(ctx, []task{
		{"tap and grants", d.owner.run},
		{"gate", d.gate.run},
		{"watch of the gate", d.gate.runWatch},
		{"host's network", d.followHost},
		{"files", d.files.run},
		{"socket tables", d.trust.run},
		{"TLS libraries", d.tls.run},
		{"control socket", serve},
		{"metrics", d.runMetrics},
	})
	log.Info("stopped: what the gate holds runs out by itself", "grants", d.owner.engine.Len())
	return err
}

// daemon is what the tasks share. Each field but opts, log, hub and started
// belongs to one task after start.
type daemon struct {
	opts    Options
	log     *slog.Logger
	hub     *control.Hub
	lines   *logQueue
	started time.Time
	owner   *owner
	gate    *gate
	files   *files
	tap     tap
	tls     *tlsTap
	trust   *trust
	scrapes net.Listener // nil without metrics
}

// start does in order what must not overlap: learn the host's own addresses,
// take over what the gate held, build the gate, and only then watch.
func (d *daemon) start() (err error) {
	cfg := d.opts.Config
	if d.scrapes, err = listenMetrics(cfg.Metrics); err != nil {
		return err
	}
	if d.trust, err = openTrust(cfg); err != nil {
		return err
	}
	eng := engine.New(engine.Config{
		Confirm:  d.trust.confirm,
		Services: cfg.Services,
		Grants: grant.Config{
			Lifetime: cfg.Lifetime, IPv6Prefix: cfg.IPv6Prefix,
			MaxUsers: cfg.MaxUsers, MaxAddresses: cfg.MaxAddresses,
		},
		Rules: authz.Rules{Never: cfg.Never, Always: cfg.Always, Proxies: cfg.TrustedProxies},
	})
	if cfg.FollowSessions {
		d.log.Info("grants do not follow open sessions yet: their time runs from the login")
	}
	host, err := hostinfo.Read()
	if err != nil {
		return fmt.Errorf("read the host's addresses: %w", err)
	}
	if _, err := eng.SetHost(time.Now(), host); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if d.gate, err = openGate(cfg, eng, d.log, d.hub); err != nil {
		return err
	}
	if err := d.importElements(eng); err != nil {
		return err
	}
	if err := d.gate.build(elements(eng, cfg.Lifetime, time.Now())); err != nil {
		return err
	}
	if d.tap, err = openTap(cfg, d.trust, d.log); err != nil {
		return err
	}
	if d.tls, err = openTLS(cfg, d.tap, d.trust, d.log, d.hub); err != nil {
		return err
	}
	d.tls.follow(eng)
	d.files = newFiles(cfg, d.log)
	d.owner = newOwner(eng, d.tap, d.tls, d.gate, d.files, d.log, d.hub)
	d.gate.snapshot = func(ctx context.Context) (list []nft.Element, err error) {
		return list, d.owner.ask(ctx, func(now time.Time) { list = elements(eng, cfg.Lifetime, now) })
	}
	d.files.snapshot = func(ctx context.Context) (list []grant.Grant, err error) {
		return list, d.owner.ask(ctx, func(time.Time) { list = eng.Grants() })
	}
	return nil
}

// importElements takes over what our table held before, once: without a state
// file it is all that is known of the time before the start.
func (d *daemon) importElements(eng *engine.Engine) error {
	held, err := d.gate.nft.Read()
	if err != nil {
		return fmt.Errorf("read what the gate holds: %w", err)
	}
	n := 0
	for _, e := range held {
		if _, ok := eng.Import(time.Now(), e.Addr, e.Remaining); ok {
			n++
		}
	}
	if n > 0 {
		d.log.Info("took over what the gate held", "grants", n, "found", len(held))
	}
	return nil
}

func (d *daemon) close() error {
	var errs []error
	if d.scrapes != nil {
		if err := d.scrapes.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.tap != nil {
		errs = append(errs, d.tap.Close())
	}
	if d.trust != nil {
		errs = append(errs, d.trust.close())
	}
	if d.gate != nil {
		errs = append(errs, d.gate.close())
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
		d.log.Info("ready", "gate", d.gate.mode, "grants", d.gate.count)
		if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
			d.log.Warn("cannot tell systemd", "error", err)
		}
		<-ctx.Done()
		_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
		return nil
	})
	return g.Wait()
}

// followHost tells the owner what changes in the host's network.
func (d *daemon) followHost(ctx context.Context, ready func()) error {
	ready()
	return hostinfo.Follow(ctx,
		func(h authz.Host) { d.owner.setHost(ctx, h) },
		func(err error) { d.log.Warn("the host's network is read again", "error", err) })
}

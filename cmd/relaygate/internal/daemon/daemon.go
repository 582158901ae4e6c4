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
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
)

// Options say how to run.
type Options struct {
	Config  *config.Config
	Version string
	// Reload reads the configuration again, at SIGHUP.
	Reload func() (*config.Config, error)
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
	d.config.Store(opts.Config)
	if err := forbidCore(); err != nil {
		return err
	}
	// The socket first: it keeps a second daemon from touching the gate.
	socket, err := control.Listen(opts.Config.Socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if err := d.start(ctx); err != nil {
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
		{"connections", d.cutter.run},
		{"host's network", d.followHost},
		{"state", d.keeper.run},
		{"sessions", d.runSurvey},
		{"reload", d.runReload},
		{"files", d.files.run},
		{"socket tables", d.trust.run},
		{"TLS libraries", d.tls.run},
		{"control socket", serve},
		{"metrics", d.runMetrics},
		{"memory", runMemory},
	})
	return errors.Join(err, d.leave())
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
	cutter  *cutter
	keeper  *keeper
	scrapes net.Listener // nil without metrics

	config      atomic.Pointer[config.Config] // in force
	reloadError atomic.Pointer[string]        // nil: the last reload was good
}

// start does in order what must not overlap: learn the host's own addresses,
// take over what stood before, build the gate, and only then watch.
func (d *daemon) start(ctx context.Context) (err error) {
	cfg := d.opts.Config
	if d.scrapes, err = listenMetrics(cfg.Metrics); err != nil {
		return err
	}
	if d.keeper, err = openKeeper(cfg.StatePath, cfg.Retain, time.Now(), d.log); err != nil {
		return err
	}
	if d.trust, err = openTrust(cfg); err != nil {
		d.trust = nil // it closed itself
		return err
	}
	eng := engine.New(engine.Config{
		Confirm:  d.trust.confirm,
		Services: cfg.Services,
		Grants:   grantConfig(cfg),
		Rules:    rules(cfg),
		Retain:   cfg.Retain,
	})
	host, err := hostinfo.Read()
	if err != nil {
		return fmt.Errorf("read the host's addresses: %w", err)
	}
	if _, err := eng.SetHost(time.Now(), host); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if d.gate, err = openGate(cfg, static(eng), d.log, d.hub); err != nil {
		return err
	}
	d.cutter = openCutter(settingsOf(d.gate.cfg, cfg.Gate.CutOnExpiry), d.log)
	d.files = newFiles(cfg, d.log)
	d.owner = newOwner(eng, d)
	if err := d.inherit(); err != nil {
		return err
	}
	// Denials may have taken something from the static members.
	d.gate.cfg.Static = static(eng)
	d.gate.static.Store(&d.gate.cfg.Static)
	want, err := gateConfig(cfg, d.gate.cfg.Static)
	if err == nil {
		err = d.gate.begin(ctx, want, d.gate.project(d.owner.grants(), time.Now()))
	}
	if err != nil {
		return err
	}
	if d.tap, err = openTap(cfg, d.trust, d.log); err != nil {
		return err
	}
	if d.tls, err = openTLS(cfg, d.tap, d.trust, d.log, d.hub); err != nil {
		return err
	}
	d.tls.follow(eng)
	d.owner.tap, d.owner.tls = d.tap, d.tls
	d.connect()
	return nil
}

// connect lets the other tasks ask the owner.
func (d *daemon) connect() {
	t := d.owner.grants()
	d.gate.snapshot = func(ctx context.Context) (p projection, err error) {
		return p, d.owner.ask(ctx, func(now time.Time) { p = d.gate.project(t, now) })
	}
	d.files.snapshot = func(ctx context.Context) (list []grant.Grant, err error) {
		return list, d.owner.ask(ctx, func(time.Time) { list = t.List() })
	}
	d.keeper.snapshot = func(ctx context.Context) (rows []row, err error) {
		return rows, d.owner.ask(ctx, func(now time.Time) { rows = everything(t, now) })
	}
}

func grantConfig(cfg *config.Config) grant.Config {
	return grant.Config{
		Lifetime: cfg.Lifetime, Follow: cfg.FollowSessions, MaxSession: cfg.MaxSession,
		IPv6Prefix: cfg.IPv6Prefix, MaxUsers: cfg.MaxUsers, MaxAddresses: cfg.MaxAddresses,
	}
}

func rules(cfg *config.Config) authz.Rules {
	return authz.Rules{Never: cfg.Never, Always: cfg.Always, Proxies: cfg.TrustedProxies}
}

func static(eng *engine.Engine) (list []netip.Prefix) {
	eng.Change(func(t *grant.Table) []grant.Change { list = t.Static(); return nil })
	return list
}

// inherit takes over what stood before: from the state file, or, where there was
// none yet, from the gate's table.
func (d *daemon) inherit() error {
	if d.keeper.store.Fresh() {
		return d.importElements()
	}
	now := time.Now()
	was, err := d.keeper.load(now)
	if err != nil {
		return err
	}
	eng := d.owner.engine
	eng.Remember(now, was.journal)
	gone := make(map[netip.Prefix]bool, len(was.grants))
	for i := range was.grants {
		gone[was.grants[i].Prefix] = true
	}
	eng.Change(func(t *grant.Table) []grant.Change {
		changes := t.Restore(now, boot(), was.state, slices.Values(was.grants))
		for g := range t.All() {
			delete(gone, g.Prefix)
		}
		return changes
	})
	for p := range gone {
		d.keeper.put(row{bucket: grantsBucket, key: p.String()})
	}
	d.owner.before = was.counters
	alive, err := d.trust.tables.Alive()
	if err != nil {
		d.log.Warn("sessions of before the restart hold nothing", "error", err)
	}
	n := d.owner.rejoin(now, was.sessions, was.grants, alive)
	for _, s := range was.sessions {
		if d.owner.sessions.open[s.Conn] == nil {
			d.keeper.put(row{bucket: sessionsBucket, key: cookieKey(s.Conn)})
		}
	}
	d.log.Info("took over what stood before the start", "grants", eng.Len(), "over", len(gone), "denials", len(was.state.Denials), "sessions", n)
	if was.state.Paused != nil {
		d.log.Warn("relaygate is paused: nothing is granted", "by", was.state.Paused.By)
	}
	return nil
}

// importElements takes over what our table held before, once: without a state
// file it is all that is known of the time before the start.
func (d *daemon) importElements() error {
	found, err := d.gate.nft.Read()
	if err != nil {
		return fmt.Errorf("read what the gate holds: %w", err)
	}
	n, now := 0, time.Now()
	for _, e := range found {
		if c, ok := d.owner.engine.Import(now, e.Addr, e.Remaining); ok {
			d.keeper.changed(now, &c, d.owner.engine)
			n++
		}
	}
	if n > 0 {
		d.log.Info("took over what the gate held", "grants", n, "found", len(found))
	}
	return nil
}

// leave does what the configuration wants at the end. All tasks have ended.
func (d *daemon) leave() error {
	now, t := time.Now(), d.owner.grants()
	words := "stopped: what the gate holds runs out by itself"
	var err error
	switch d.config.Load().Gate.OnExit {
	case config.ExitExpire:
	case config.ExitClose:
		words = "stopped: the gate is closed"
		err = d.gate.nft.CloseAll(d.gate.project(t, now).members...)
	case config.ExitKeep:
		words = "stopped: the gate holds all that was promised"
		for part := range slices.Chunk(d.gate.project(t, now).members, 1000) {
			err = errors.Join(err, d.gate.nft.Add(part...))
		}
	}
	d.log.Info(words, "grants", t.Len())
	return err
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
	if d.cutter != nil {
		errs = append(errs, d.cutter.close())
	}
	if d.keeper != nil {
		var rows []row
		if d.tap != nil && d.owner.engine.Len() <= exactAtStop {
			rows = append(everything(d.owner.grants(), time.Now()), d.owner.counters()...)
		}
		errs = append(errs, d.keeper.close(rows))
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
		d.log.Info("ready", "gate", d.gate.status().Mode, "grants", d.gate.count)
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

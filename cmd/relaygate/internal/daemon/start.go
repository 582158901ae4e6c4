//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/metrics"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// start does in order what must not overlap: learn the host's own addresses,
// take over what stood before, build the gate, and only then watch. It is not cut short:
// who stops the daemon meanwhile has it end as the configuration says.
func (d *daemon) start() (err error) {
	cfg := d.opts.Config
	if d.keeper, err = keeper.Open(cfg.StatePath, cfg.Retain, time.Now(), d.log); err != nil {
		return err
	}
	if d.trust, err = livetap.OpenTrust(cfg); err != nil {
		return err
	}
	eng := engine.New(engine.Config{
		Confirm:  d.trust.Confirm,
		Whole:    d.trust.Whole,
		Services: cfg.Services,
		Grants:   cfg.Grants(),
		Rules:    cfg.Rules(),
		Retain:   cfg.Retain,
	})
	host, err := hostinfo.Read()
	if err != nil {
		return fmt.Errorf("read the host's addresses: %w", err)
	}
	if _, err := eng.SetHost(time.Now(), host); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if d.gate, err = gate.Open(cfg, eng.Grants().Static(), d.log, d.hub); err != nil {
		return err
	}
	d.metrics = metrics.Listen(cfg.Metrics, d.log) // as long as there is the capability for a low port
	d.cutter = openCutter(settingsOf(&cfg.Gate), d.log)
	d.files = newFiles(cfg, d.log)
	d.owner = newOwner(eng, d)
	if err := d.inherit(); err != nil {
		return err
	}
	t := d.owner.grants()
	if err := d.gate.Begin(t.Static(), d.gate.Project(t, time.Now())); err != nil {
		return err
	}
	if d.tap, err = livetap.Open(cfg, d.trust, d.log, d.hub); err != nil {
		return err
	}
	if d.tls, err = livetap.OpenTLS(cfg, d.tap, d.trust, d.log, d.hub); err != nil {
		return err
	}
	d.tls.Follow(eng)
	if _, err := d.tap.Alive(); errors.Is(err, errors.ErrUnsupported) {
		eng.IgnoreSessions()
		if cfg.FollowSessions {
			d.log.Warn("this tap cannot follow sessions: grants run from their login")
		}
	}
	d.owner.tap, d.owner.tls = d.tap, d.tls
	d.connect()
	return nil
}

// connect lets the other tasks ask the owner.
func (d *daemon) connect() {
	t := d.owner.grants()
	d.gate.Connect(gate.Owner{
		Snapshot: func(ctx context.Context) (p gate.Projection, err error) {
			return p, d.owner.ask(ctx, func(now time.Time) { p = d.gate.Project(t, now) })
		},
		Bitten: func(ctx context.Context, list []nft.Bitten) {
			_ = d.owner.ask(ctx, func(now time.Time) { d.owner.bitten(now, list) }) // an error: the daemon ends
		},
	})
	d.files.static = d.gate.Static
	d.files.found = func(ctx context.Context, foreign *relayhosts.Foreign, changed bool) {
		_ = d.owner.ask(ctx, func(now time.Time) { d.owner.found(now, foreign, changed) }) // an error: the daemon ends
	}
	d.files.entries = d.owner.entries(d.opts.Config.UsersFile != "")
	d.keeper.Connect(keeper.Owner{
		Do: func(ctx context.Context, do func(*engine.Engine, time.Time)) error {
			return d.owner.ask(ctx, func(now time.Time) { do(d.owner.engine, now) })
		},
		Prefixes:  d.owner.prefixes,
		Forgotten: func(ctx context.Context) error { return d.owner.ask(ctx, func(time.Time) { d.owner.saveAgain() }) },
	})
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/metrics"
	"relaygate/cmd/relaygate/internal/daemon/process"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// start does in order what must not overlap: learn the host's own addresses,
// take over what stood before, build the gate, and only then watch. It is not cut short:
// who stops the daemon meanwhile has it end as the configuration says.
func (d *daemon) start() (err error) {
	if err := process.ForbidCore(); err != nil { // before there is anything secret
		return err
	}
	cfg := d.opts.Config
	if d.keeper, err = keeper.Open(cfg.StatePath, cfg.Retain, time.Now(), d.log); err != nil {
		return err
	}
	if err := d.beginning(); err != nil {
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
	now := time.Now()
	was, err := d.keeper.Load(now)
	if err != nil {
		return err
	}
	if err := d.compare(was.Run); err != nil {
		return err
	}
	// First the journal: what the rules grant goes on in it.
	eng.Evidence().Import(now, slices.Values(was.Journal))
	host, err := hostinfo.Read()
	if err != nil {
		return fmt.Errorf("read the host's addresses: %w", err)
	}
	if _, err := eng.SetHost(now, host); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if d.gate, err = gate.Open(cfg, eng.Grants().Static(), d.log, d.hub); err != nil {
		return err
	}
	d.metrics = metrics.Listen(cfg.Metrics, d.log) // as long as there is the capability for a low port
	d.cutter = openCutter(settingsOf(&cfg.Gate), d.log)
	d.files = newFiles(cfg, d.log)
	d.owner = newOwner(eng, d)
	if err := d.inherit(was); err != nil {
		return err
	}
	t := d.owner.grants()
	if err := d.gate.Begin(t.Static(), d.gate.Project(t, time.Now())); err != nil {
		return err
	}
	if err := d.watch(cfg, eng); err != nil {
		return err
	}
	d.connect()
	d.keeper.PutRun(runOf(cfg))
	return nil
}

// watch opens the taps. What they see is read when the owner runs.
func (d *daemon) watch(cfg *config.Config, eng *engine.Engine) (err error) {
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
	return nil
}

// compare refuses a configuration that is short of what the last run did. Its files, which
// the configuration names no more, are those to be emptied then, and if it crashed.
func (d *daemon) compare(was keeper.Run) error {
	err := shortened(d.opts.Config, was.Mode)
	if err != nil {
		d.opts.Config = written(d.opts.Config, was)
		return err
	}
	d.emptyFormer(was)
	return nil
}

// emptyFormer empties the files that the last run wrote, and nobody writes from now on: if
// it crashed, their lines would stay.
func (d *daemon) emptyFormer(was keeper.Run) {
	if was.Stopped || was.Keep {
		return
	}
	former := relayhosts.Config{Hosts: was.Relayhosts, Users: was.Users}
	if was.Relayhosts == d.opts.Config.Relayhosts {
		former.Hosts = ""
	}
	if was.Users == d.opts.Config.UsersFile {
		former.Users = ""
	}
	if err := relayhosts.NewWriter(former).Forsake(); err != nil {
		d.log.Error("a file that the last run wrote, and this one does not, cannot be emptied", "error", err)
	}
}

// connect lets the other tasks ask the owner.
func (d *daemon) connect() {
	t := d.owner.grants()
	d.gate.Connect(gate.Owner{
		Snapshot: func(ctx context.Context) (p gate.Projection, err error) {
			err = d.owner.ask(ctx, func(now time.Time) { p = d.gate.Project(t, now) })
			return p, err
		},
		Bitten: func(ctx context.Context, list []nft.Bitten) {
			_ = d.owner.ask(ctx, func(now time.Time) { d.owner.bitten(now, list) }) // an error: the daemon ends
		},
		Intruded: func(ctx context.Context, members []netip.Prefix, change string) {
			_ = d.owner.ask(ctx, func(now time.Time) { d.owner.intruded(now, members, change) }) // as above
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

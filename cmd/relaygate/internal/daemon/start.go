//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/metrics"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// start does in order what must not overlap: learn the host's own addresses,
// take over what stood before, build the gate, and only then watch.
func (d *daemon) start(ctx context.Context) (err error) {
	cfg := d.opts.Config
	if d.keeper, err = openKeeper(cfg.StatePath, cfg.Retain, time.Now(), d.log); err != nil {
		return err
	}
	if d.trust, err = livetap.OpenTrust(cfg); err != nil {
		return err
	}
	eng := engine.New(engine.Config{
		Confirm:  d.trust.Confirm,
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
	if d.gate, err = openGate(cfg, eng.Grants().Static(), d.log, d.hub); err != nil {
		return err
	}
	d.metrics = metrics.Listen(cfg.Metrics, d.log) // as long as there is the capability for a low port
	d.cutter = openCutter(settingsOf(d.gate.cfg, cfg.Gate.CutOnExpiry), d.log)
	d.files = newFiles(cfg, d.log)
	d.owner = newOwner(eng, d)
	if err := d.inherit(); err != nil {
		return err
	}
	// Denials may have taken something from the static members.
	members := eng.Grants().Static()
	d.gate.cfg.Static = members
	d.gate.static.Store(&members)
	want, err := gateConfig(cfg, members)
	if err == nil {
		err = d.gate.begin(ctx, want, d.gate.project(d.owner.grants(), time.Now()))
	}
	if err != nil {
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
	d.gate.snapshot = func(ctx context.Context) (p projection, err error) {
		return p, d.owner.ask(ctx, func(now time.Time) { p = d.gate.project(t, now) })
	}
	d.gate.bitten = func(ctx context.Context, list []nft.Bitten) {
		_ = d.owner.ask(ctx, func(now time.Time) { d.owner.bitten(now, list) }) // an error: the daemon ends
	}
	d.files.static = func() []netip.Prefix { return *d.gate.static.Load() }
	d.files.entries = d.owner.entries(d.opts.Config.UsersFile != "")
	d.keeper.fetch = func(ctx context.Context, m marks) (rules []row, err error) {
		return rules, d.owner.ask(ctx, func(now time.Time) { rules = d.keeper.fetchNow(d.owner.engine, now, m) })
	}
	d.keeper.prefixes = d.owner.prefixes
	d.keeper.forgotten = func(ctx context.Context) error {
		return d.owner.ask(ctx, func(time.Time) { d.owner.saveAgain() })
	}
	d.keeper.weedOut = func(ctx context.Context, list []netip.Prefix, oldest time.Time) error {
		return d.owner.ask(ctx, func(time.Time) { d.keeper.weed(d.owner.engine, list, oldest) })
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
	d.owner.before = was.counters
	alive, err := d.trust.Alive()
	if err != nil {
		d.log.Warn("sessions of before the restart hold nothing", "error", err)
	}
	if !d.opts.Config.FollowSessions {
		alive = nil
	}
	is := survivors{finder(alive), eng.MayAnnounce, now.Add(-d.opts.Config.MaxSession)}
	live := slices.DeleteFunc(slices.Clone(was.sessions), func(s savedSession) bool { return !is.live(&s) })
	live, over, err := d.restore(now, was.state, &is, live)
	if err != nil {
		return err
	}
	n := d.owner.rejoin(now, live)
	for _, s := range was.sessions {
		if d.owner.sessions.open[s.Conn] == nil {
			d.keeper.store.Delete(sessionsBucket, cookieKey(s.Conn))
		}
	}
	d.log.Info("took over what stood before the start", "grants", eng.Grants().Len(), "over", over, "denials", len(was.state.Denials), "sessions", n)
	if was.state.Paused != nil {
		d.log.Warn("relaygate is paused: nothing is granted", "by", was.state.Paused.By)
	}
	return nil
}

// restore takes over the grants that stand still, and those that a living session
// holds: nobody was there to renew them. It returns all such sessions, which besides
// those in live are the ones of the grants' last logins, and how many grants are over.
func (d *daemon) restore(now time.Time, was grant.State, is *survivors, live []savedSession) ([]savedSession, int, error) {
	var err error
	t, clock, over := d.owner.grants(), boot(), 0
	held := make(map[netip.Prefix]*grant.Session, len(live)) // the youngest
	hold := func(p netip.Prefix, s *grant.Session) {
		if held[p] == nil || held[p].Begin.Before(s.Begin) {
			held[p] = s
		}
	}
	for i := range live {
		hold(t.Key(live[i].Client), &live[i].Session)
	}
	d.owner.engine.Record(t.Restore(now, clock, was, func(yield func(grant.Saved) bool) {
		err = d.keeper.grants(func(g *grant.Saved) bool {
			if s, ok := anchor(g); ok && is.live(&s) {
				live = append(live, s)
				hold(g.Prefix, &s.Session)
			}
			// Nobody's session keeps a shared address open.
			if s := held[g.Prefix]; s != nil && !olderThan(s, &g.Grant) && len(g.Users) <= d.opts.Config.MaxUsers {
				g.Extend(now, clock, d.owner.lifetime)
			}
			if !yield(*g) {
				return false
			}
			if _, stands := t.Of(g.Prefix); !stands {
				d.keeper.over(g.Prefix)
				over++
			}
			return true
		})
	}))
	if was.Paused != nil {
		d.keeper.sweepAgain() // a crash came before all that the pause closed was deleted
	}
	return live, over, err
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
			d.keeper.changed(&c)
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
	// What was decided last came when the gate's task had ended.
	d.gate.snapshot = func(context.Context) (projection, error) { return d.gate.project(t, now), nil }
	d.gate.drain(context.Background())
	d.gate.mend(context.Background())
	var err error
	if d.gate.broken {
		err = errors.New("the gate could not be written: " + d.gate.status().LastError)
	}
	switch d.config.Load().Gate.OnExit {
	case config.ExitExpire:
	case config.ExitClose:
		words = "stopped: the gate is closed"
		err = errors.Join(err, d.gate.nft.CloseAll(d.gate.project(t, now).members...))
	case config.ExitKeep:
		words = "stopped: the gate holds all that was promised"
		for part := range slices.Chunk(d.gate.elements(t.Project(now), t.Len(), now), 1000) {
			err = errors.Join(err, d.gate.nft.Add(part...))
		}
	}
	d.log.Info(words, "grants", t.Len())
	return errors.Join(err, d.files.remain(t))
}

package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// Begin makes the table, at the start. Of the static members that the gate was opened
// with, denials may have taken something.
func (g *Gate) Begin(static []netip.Prefix, want Projection) error {
	g.static.Store(&static)
	cfg := g.cfg
	cfg.Static = g.fitting(cfg, static)
	if !slices.Equal(cfg.Static, g.cfg.Static) {
		err := g.nft.Reconfigure(cfg, nil)
		if err != nil { // as reconfigure, which tries again
			g.unfit(err)
			cfg.Static = common(g.cfg.Static, cfg.Static)
			err = g.nft.Reconfigure(cfg, nil)
		}
		if err != nil {
			return fmt.Errorf("build the gate: %w", err)
		}
	}
	g.cfg = cfg
	w, err := g.nft.Watch()
	if err != nil {
		return fmt.Errorf("watch the gate: %w", err)
	}
	g.watch.Store(w)
	err = g.load(context.Background(), want, false)
	if errors.Is(err, nft.ErrFull) && cfg.Mode == nft.UserSets { // others are in
		g.broken, err = true, nil
		g.tellBehind()
		g.noteError(nft.ErrFull)
		g.log.Error("the sets have no room for all members: trying again", "every", checkEvery)
	}
	if err != nil {
		return fmt.Errorf("build the gate: %w", err)
	}
	g.grants.Store(int64(len(want.members)))
	g.note(func(s *control.Gate) { s.Up = s.Missing == "" })
	g.publish("built with " + authz.Count(len(want.members), "member"))
	return nil
}

// load writes all of want: a few at once, very many, or what is to be repaired, in chunks
// between which single changes are written. What was removed meanwhile is not added by a
// later chunk, and what was queued before want was made is in it.
func (g *Gate) load(ctx context.Context, want Projection, repair bool) error {
	removed := make(map[netip.Addr]bool)
	between := func() error {
		for len(g.ops) > 0 {
			op := <-g.ops
			g.queued.Add(-1)
			switch {
			case !op.adds() && !op.removes():
				g.stale = true // want has no static members
				continue
			case op.generation <= want.generation:
				continue
			case op.removes():
				removed[op.remove] = true
			}
			if err := g.put(op); errors.Is(err, nft.ErrElement) {
				g.noteError(err) // it concerns this one alone
			} else if err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	var err error
	if !repair && len(want.members) < loadFrom {
		if err = g.nft.Rebuild(want.members); err == nil || errors.Is(err, nft.ErrElement) {
			err = errors.Join(err, between())
		}
	} else {
		chunks := g.nft.Load
		if repair {
			chunks = g.nft.Repair
		}
		err = chunks(func(yield func(nft.Element) bool) {
			for _, e := range want.members {
				e.Remaining -= time.Since(want.at) // seconds, for a million
				if e.Remaining > 0 && !removed[e.Addr] && !yield(e) {
					return
				}
			}
		}, between)
	}
	if errors.Is(err, nft.ErrElement) {
		g.log.Error("the gate is built without some members", "error", err)
		err = nil
	}
	return err
}

// Settle returns when the kernel holds what the owner decided before.
func (g *Gate) Settle(ctx context.Context) error {
	return g.ask(ctx, g.settled)
}

func (g *Gate) settled(ctx context.Context) error {
	g.mend(ctx)
	if g.broken || g.stale {
		return errors.New("the gate could not be written: " + g.Status().LastError)
	}
	return nil
}

// mend does what is left to be done. During a rebuild it may turn out that static
// members changed.
func (g *Gate) mend(ctx context.Context) {
	switch {
	case g.overflow.Swap(false):
		g.rebuild(ctx, "more changes came than could be written one by one")
	case g.broken:
		g.rebuild(ctx, "the last change could not be written")
	}
	if g.stale {
		g.reconfigure(ctx)
	}
	g.tellBehind()
}

// tellBehind says whether something is left.
func (g *Gate) tellBehind() { g.note(func(s *control.Gate) { s.Behind = g.broken || g.stale }) }

// repair makes the table as it should be after somebody took it away. explained
// says whether the reason tells who.
func (g *Gate) repair(ctx context.Context, reason string, explained bool) {
	if !explained {
		g.unexplained = time.Now()
	}
	g.note(func(s *control.Gate) {
		s.Up = false
		s.Losses++
		s.LastLoss, s.LastLossAt = reason, control.Time{Time: time.Now()}
	})
	g.log.Warn("the gate was lost", "reason", reason)
	g.publish("lost: " + reason)
	g.refill(ctx, reason, true)
}

// rebuild makes the whole table anew.
func (g *Gate) rebuild(ctx context.Context, why string) { g.refill(ctx, why, false) }

func (g *Gate) refill(ctx context.Context, why string, repair bool) {
	start := time.Now()
	err := g.shut() // before the snapshot, which may let some of them in again
	var want Projection
	if err == nil {
		want, err = g.owner.Snapshot(ctx)
	}
	if err == nil {
		err = g.load(ctx, want, repair)
	}
	if err != nil {
		g.broken = true
		g.noteError(err)
		g.log.Error("the gate could not be rebuilt: trying again", "error", err, "every", checkEvery)
		return
	}
	g.broken = false
	g.note(func(s *control.Gate) { s.Up = s.Missing == ""; s.Rebuilds++ })
	g.log.Warn("the gate was rebuilt", "members", len(want.members), "took", time.Since(start), "reason", why)
	g.publish("rebuilt with " + authz.Count(len(want.members), "member") + ": " + why)
}

// reconfigure puts the static members in force that the owner wants. Where the kernel
// does not take them, those who may pass no longer go all the same.
func (g *Gate) reconfigure(ctx context.Context) {
	cfg := g.cfg
	want := g.fitting(cfg, *g.static.Load())
	cfg.Static = want
	if slices.Equal(cfg.Static, g.cfg.Static) {
		g.stale = false
		return
	}
	err := g.configure(ctx, cfg)
	if err == nil {
		return
	}
	if cfg.Static = common(g.cfg.Static, want); len(cfg.Static) < len(g.cfg.Static) {
		err = errors.Join(err, g.configure(ctx, cfg))
	}
	g.unfit(err)
}

// fitting are the static members that have room in the gate. Sets of the administrator's
// hold single addresses: what a denial leaves of a network may not fit. That stays closed
// for as long as the denial holds, and is told; nothing waits for it.
func (g *Gate) fitting(cfg nft.Config, want []netip.Prefix) (fit []netip.Prefix) {
	var closed []netip.Prefix
	for _, p := range want {
		if cfg.Mode == nft.UserSets && cfg.Sets.CheckStatic(p) != nil {
			closed = append(closed, p)
		} else {
			fit = append(fit, p)
		}
	}
	words := ""
	if len(closed) > 0 {
		words = fmt.Sprintf("the sets cannot hold all that denials leave of grant.always: %s stays closed", closed[0])
	}
	if n := len(closed) - 1; n > 0 {
		words += fmt.Sprintf(", and so do %d more prefixes", n)
	}
	g.note(func(s *control.Gate) { s.Unfit = words })
	return fit
}

// unfit says, once, that the static members are not yet those that the owner wants.
func (g *Gate) unfit(err error) {
	g.stale = true
	was := g.Status()
	again := was.Behind && was.LastError == err.Error()
	g.noteError(err)
	if again {
		return
	}
	g.log.Error("the gate's static members could not be changed: trying again", "error", err, "every", checkEvery)
}

// common lists what of one list is in another one too.
func common(list, other []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return !slices.Contains(other, p) })
}

// change puts another configuration in force. Its static members are those in force
// now: the owner may have sent others since it was made.
func (g *Gate) change(ctx context.Context, cfg nft.Config) error {
	cfg.Static = g.fitting(cfg, g.cfg.Static)
	err := g.configure(ctx, cfg)
	g.stale = true // mend will see
	return err
}

// configure changes the gate's configuration in one transaction. On an error
// the former one stays.
func (g *Gate) configure(ctx context.Context, cfg nft.Config) error {
	want, err := g.owner.Snapshot(ctx)
	if err != nil {
		return err
	}
	if err := g.nft.Reconfigure(cfg, want.members); err != nil && !errors.Is(err, nft.ErrElement) {
		return err
	}
	moved := cfg.Mode != g.cfg.Mode && (cfg.Mode == nft.UserSets || g.cfg.Mode == nft.UserSets) || cfg.Sets != g.cfg.Sets
	g.cfg, g.stale = cfg, false
	g.tellLacks()
	g.note(func(s *control.Gate) { s.Mode, s.Ports = cfg.Mode.String(), cfg.Ports })
	if !moved {
		return nil
	}
	w, err := g.nft.Watch()
	if err != nil {
		return fmt.Errorf("watch the gate: %w", err)
	}
	if old := g.watch.Swap(w); old != nil {
		return old.Close()
	}
	return nil
}

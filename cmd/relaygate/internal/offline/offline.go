// Package offline answers in the daemon's place while none does: from what it left in
// its state file, in the files for mail servers and in the kernel. All of that is only
// read: a daemon may start at any moment.
package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/cmd/relaygate/internal/lockfile"
	"relaygate/cmd/relaygate/internal/story"
)

// Daemon is the one that does not answer.
type Daemon struct {
	// Config is its configuration, or what can be read of one with Mistakes.
	Config *config.Config
	// File is where Config was read, "" for the defaults.
	File     string
	Mistakes error
	// Silence is what came of asking it.
	Silence *control.SilentError
}

// Why answers why an address may relay, or why not.
func (d *Daemon) Why(a netip.Addr, now time.Time) (control.Story, error) {
	l, err := d.read(now, func(p netip.Prefix) bool { return p.Contains(a) })
	if err != nil {
		return control.Story{}, err
	}
	before, err := story.Soon(func() ([]authz.Event, error) { return story.Before(a, d.Config.Files()...) })
	if err != nil {
		l.about.Files = append(l.about.Files, fmt.Sprintf("what a file held before the first start cannot be told: %v", err))
	}
	s := story.Left.Of(l.grants, l.journal, before, a, now)
	if l.about.Error != "" && len(s.Events) == 0 && !s.Granted && l.grants.Check(a).Allow {
		s.Reason = "cannot be explained: nothing is known from the state"
	} else if d.Mistakes == nil {
		story.But(&s, story.Observed(d.Config))
	}
	d.kernel(&l.about, a, now)
	d.named(&s, &l.about, now)
	s.Offline = &l.about
	return s, nil
}

// Grants lists those that stand still, and which addresses relayhosts names besides.
func (d *Daemon) Grants(now time.Time) (list []control.Grant, about control.Offline, err error) {
	l, err := d.read(now, all)
	if err != nil {
		return nil, about, err
	}
	byPrefix := func(a, b grant.Grant) int { return a.Prefix.Compare(b.Prefix) }
	for _, g := range slices.SortedFunc(l.grants.All(), byPrefix) {
		shape := control.NewGrant(&g)
		if shape.AsOf = &l.about.AsOf; g.Source == grant.Always {
			shape.Since = control.Time{} // nobody began it
		}
		list = append(list, shape)
	}
	d.kernel(&l.about, netip.Addr{}, now)
	d.beside(&l.about, l.grants)
	return list, l.about, nil
}

// Denials lists those that are in force.
func (d *Daemon) Denials(now time.Time) ([]control.Denial, control.Offline, error) {
	l, err := d.read(now, all)
	if err != nil {
		return nil, control.Offline{}, err
	}
	list := story.Denials(l.grants)
	for i := range list {
		list[i].AsOf = &l.about.AsOf
	}
	d.kernel(&l.about, netip.Addr{}, now)
	return list, l.about, nil
}

// Status tells what is left of a status.
func (d *Daemon) Status(now time.Time) (control.Status, error) {
	l, err := d.read(now, all)
	if err != nil {
		return control.Status{}, err
	}
	t := l.grants
	d.kernel(&l.about, netip.Addr{}, now)
	d.beside(&l.about, t)
	return control.Status{
		Now: control.Time{Time: now}, Problems: []string{l.about.Why}, Grants: t.Len(), Denials: len(t.Denials()),
		Totals: l.totals, State: control.State{Path: l.about.State, Written: l.about.AsOf, Error: l.about.Error},
		Tap:    control.Tap{POP3: d.Config.Ports(authz.POP3), IMAP: d.Config.Ports(authz.IMAP)},
		Gate:   control.Gate{Mode: d.Config.Gate.Mode.String(), Ports: d.Config.Gate.Ports, Words: d.Config.Gate.Words()},
		Doubts: map[string]uint64{}, Changes: map[string]uint64{}, Drops: map[string]uint64{}, Files: []control.File{},
		Paused: story.Paused(t), Offline: &l.about,
	}, nil
}

func all(netip.Prefix) bool { return true }

// left is what is left of a daemon, as one that starts now would know it, but for the
// sessions that hold a grant: nobody follows them.
type left struct {
	grants  *grant.Table
	journal *authz.Evidence
	about   control.Offline
	totals  map[string]uint64
}

// read reads the state about the prefixes that are wanted. It fails where somebody else
// has to look.
func (d *Daemon) read(now time.Time, wanted func(netip.Prefix) bool) (*left, error) {
	cfg := d.Config
	holder := lockfile.Holder(cfg.StatePath + ".lock")
	l := &left{about: control.Offline{Why: d.why(holder), Next: d.next(holder, true), State: cfg.StatePath, Files: []string{}}}
	l.grants, l.journal = grant.New(cfg.Grants()), authz.NewEvidence(authz.EvidenceConfig{Retain: cfg.Retain})
	host, err := hostinfo.Read()
	if err != nil {
		return nil, fmt.Errorf("%s; read the host's addresses: %w", l.about.Why, err)
	}
	policy, err := authz.NewPolicy(host, cfg.Rules())
	if err != nil {
		return nil, fmt.Errorf("%s; policy: %w", l.about.Why, err)
	}
	l.grants.SetPolicy(now, policy)
	var saved []grant.Saved
	was, err := keeper.Peek(cfg.StatePath, now, wanted, func(g *grant.Saved) { saved = append(saved, *g) })
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return nil, fmt.Errorf("%s, and only root may read what it left in %s: run this as root", l.about.Why, cfg.StatePath)
	case errors.Is(err, fs.ErrNotExist):
		l.about.Error = "there is no " + cfg.StatePath + ", as if it had never run"
		l.about.Next = d.next(holder, false)
		return l, nil
	case err != nil:
		l.about.Error = err.Error()
		return l, nil
	}
	l.about.AsOf.Time, l.totals = was.State.Kept, was.Counters
	if n := len(was.Bad); n > 0 {
		kinds := strings.Join(slices.Sorted(maps.Keys(was.Bad)), ", ")
		l.about.Error = "some of its records cannot be understood, and are left out: " + kinds
	}
	l.journal.Import(now, slices.Values(was.Journal))
	for _, c := range l.grants.Restore(now, clock.Boot(), was.State, slices.Values(saved)) {
		if c.Kind == grant.Expired { // nobody has noted that
			l.journal.Add(c.Event())
		}
	}
	return l, nil
}

// why says why no daemon answers; the process that holds its state is one all the same.
func (d *Daemon) why(holder string) string {
	if d.Silence.Err == nil {
		return d.Silence.Error()
	}
	if holder != "" {
		return fmt.Sprintf("relaygate runs, as process %s, and cannot be asked at %s (%v)", holder, d.Silence.Socket, d.Silence.Err)
	}
	return fmt.Sprintf("relaygate does not run: nobody answers at %s", d.Silence.Socket)
}

// next says what to do; about one that ran before, also how to learn why it ended.
func (d *Daemon) next(holder string, ran bool) string {
	start, log, restart := "systemctl start relaygate", "journalctl -u relaygate", "systemctl restart relaygate"
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		start, log, restart = "relaygate run", "its log", "end it and start it again"
		if d.File != "" {
			start += " --config " + d.File
		}
	}
	switch {
	case d.Silence.Err == nil, holder != "":
		return log + " may say why; " + restart + ": what it granted stays"
	case d.Mistakes != nil:
		return fmt.Sprintf("mend its configuration (%s), then start it: %s", strings.ReplaceAll(d.Mistakes.Error(), "\n", "; "), start)
	}
	if !ran {
		return "start it: " + start
	}
	return fmt.Sprintf("start it: %s; why it ended: %s", start, log)
}

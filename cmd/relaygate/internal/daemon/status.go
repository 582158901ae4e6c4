package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/cmd/relaygate/internal/story"
)

// Status answers the control socket.
func (d *daemon) Status(ctx context.Context) (control.Status, error) {
	s, err := d.snapshot(ctx)
	d.tls.Share(&s)
	none := func(_ string, n uint64) bool { return n == 0 }
	maps.DeleteFunc(s.Drops, none)
	maps.DeleteFunc(s.Doubts, none)
	return s, err
}

// snapshot is the daemon's status with every bound, whether hit or not.
func (d *daemon) snapshot(ctx context.Context) (control.Status, error) {
	cfg := d.opts.Config
	s := control.Status{
		Version: d.opts.Version, Since: control.Time{Time: d.started},
		Problems: []string{}, Gate: d.gate.Status(), Files: d.files.status(),
		Drops: map[string]uint64{}, Doubts: map[string]uint64{}, Changes: map[string]uint64{},
		Tap: control.Tap{POP3: cfg.Ports(authz.POP3), IMAP: cfg.Ports(authz.IMAP)},
	}
	s.Tap.Kind, s.Tap.Where = d.tap.Where()
	err := d.owner.ask(ctx, func(now time.Time) { d.owner.status(now, &s) })
	if err != nil {
		return s, ending(err)
	}
	s.Drops["watch: events that a watcher was too slow for"] = d.hub.Dropped()
	s.Drops["log: lines dropped"] = d.out.Dropped()
	s.Drops["connections: expired grants whose connections were not ended"] = d.cutter.dropped.Load()
	d.problems(&s)
	d.keeper.Status(&s)
	d.tls.Status(&s)
	for i, words := range s.Problems { // several errors may be joined in one
		s.Problems[i] = strings.ReplaceAll(words, "\n", "; ")
	}
	return s, nil
}

// ending is the error of a question that the owner did not answer.
func ending(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("relaygate is ending: %w", err)
}

// status fills in what the owner knows; it runs in the owner's goroutine.
func (o *owner) status(now time.Time, s *control.Status) {
	t, counts, flows, evidence := o.grants(), o.engine.Counts(), o.engine.Flows(), o.engine.Evidence().Dropped()
	s.Now = control.Time{Time: now}
	s.Logins, s.Refused, s.Tainted, s.Encrypted = counts.Logins, counts.Failures, counts.Tainted, counts.Encrypted
	s.Doubts, s.Changes = o.engine.Doubts(), o.engine.Changes()
	s.Grants, s.Sessions, s.Denials = t.Len(), t.Followed(), len(t.Denials())
	s.Paused, s.Totals = story.Paused(t), o.counters()
	stopped := t.Stopped()
	s.Shared, s.Spread = stopped.Users, stopped.Addresses
	s.Tap.Flows, s.Tap.Opened, s.Tap.Untrusted = uint64(flows.Open), flows.Opened, counts.Untrusted
	s.TLS.Handshakes, s.TLS.Seen, s.TLS.Unseen = counts.TLS.Handshakes, counts.TLS.Seen, counts.TLS.Unseen
	if flows.Full {
		s.Problems = append(s.Problems, fmt.Sprintf("no login over a new connection is believed: %s are open, as many as can be watched", authz.Count(flows.Open, "connection")))
	}
	packets, drops, err := o.tap.Counts()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	s.Tap.Packets = packets
	maps.Copy(s.Drops, drops)
	maps.Copy(s.Drops, map[string]uint64{
		"tap: connections that could not be marked as done":             o.errs,
		"tls: calls of processes that may not speak for the connection": counts.TLS.Refused,
		"flows: connections beyond the table":                           flows.Bounds.Flows,
		"flows: connections beyond one client's share":                  flows.Bounds.FlowsPerClient,
		"flows: handshakes beyond the table":                            flows.Bounds.Handshakes,
		"flows: in doubt, too many client bytes waiting":                flows.Bounds.ClientBytes,
		"flows: in doubt, too many server bytes waiting":                flows.Bounds.ServerBytes,
		"flows: in doubt, too many holes":                               flows.Bounds.Pieces,
		"flows: in doubt, no buffer left":                               flows.Bounds.Buffered,
		"flows: forged segments":                                        flows.Forged,
		"grants: sessions not followed":                                 t.Dropped().Sessions,
		"grants: grants whose users cannot be told":                     t.Dropped().Details,
		"evidence: addresses with a login forgotten":                    evidence.Earned,
		"evidence: other addresses forgotten":                           evidence.Strangers,
		"evidence: user names not kept":                                 evidence.Users,
	})
}

// counters are the totals since the state file was made.
func (o *owner) counters() map[string]uint64 {
	c := o.engine.Counts()
	return map[string]uint64{
		"logins":    o.before["logins"] + c.Logins,
		"refused":   o.before["refused"] + c.Failures,
		"tainted":   o.before["tainted"] + c.Tainted,
		"encrypted": o.before["encrypted"] + c.Encrypted,
	}
}

// problems says in words what a person should look at.
func (d *daemon) problems(s *control.Status) {
	tell := func(on bool, words string) {
		if on {
			s.Problems = append(s.Problems, words)
		}
	}
	g := &s.Gate
	tell(!g.Up && g.Missing == "", "the gate is missing in the kernel: "+g.LastError)
	tell(g.Up && g.Behind, "the kernel has not taken all that was decided, which is tried again: "+g.LastError)
	tell(g.Missing != "", "nftables cannot be used, so that no set shows who would be let in: "+g.Missing)
	tell(g.Unfit != "", g.Unfit)
	tell(g.Lacks != "", "this kernel cannot do all that is configured: "+g.Lacks)
	if s.Paused != nil {
		tell(true, "it is paused by "+s.Paused.By+": nothing is granted")
	}
	s.Problems = append(s.Problems, d.tap.Problems()...)
	for _, words := range []string{d.files.hangs(time.Now()), d.metrics.Problem()} {
		tell(words != "", words)
	}
	if most := hostinfo.TrackingFull(); most > 0 {
		tell(true, fmt.Sprintf("the kernel tracks about as many connections as it may (net.netfilter.nf_conntrack_max = %d), and refuses others, those of mail clients too", most))
	}
	if words := d.reloadError.Load(); words != nil {
		tell(true, *words)
	}
	for _, f := range s.Files {
		tell(f.Error != "", fmt.Sprintf("%s cannot be written: %s", f.Path, f.Error))
		since := time.Since(f.ChangedAt.Time)
		tell(f.Changed > 0 && since < changedLately, fmt.Sprintf(
			"somebody else changed %s (%s, last %s): whom it named meanwhile could relay; look for another program that writes it",
			f.Path, authz.Count(f.Changed, "time"), authz.Ago(since)))
		tell(f.Others != "", "others may let anybody relay: "+f.Others)
	}
}

// changedLately is how long it is a problem that somebody else changed a file.
const changedLately = 10 * time.Minute

// Grants answers the control socket.
func (d *daemon) Grants(ctx context.Context, visit func(*control.Grant)) error {
	return ending(d.owner.parts(ctx, func(g *grant.Grant) {
		shape := control.NewGrant(g)
		visit(&shape)
	}))
}

// Denials answers the control socket.
func (d *daemon) Denials(ctx context.Context) (out []control.Denial, err error) {
	err = d.owner.ask(ctx, func(time.Time) { out = story.Denials(d.owner.grants()) })
	return out, ending(err)
}

// Why answers the control socket.
func (d *daemon) Why(ctx context.Context, a netip.Addr) (s control.Story, err error) {
	before, err := d.files.before(d.config.Load().Files(), a)
	if err != nil {
		d.log.Warn("what a file held before the first start cannot be told", "error", err)
	}
	err = d.owner.ask(ctx, func(now time.Time) {
		s = story.Live.Of(d.owner.grants(), d.owner.engine.Evidence(), before, a, now)
	})
	behind := d.gate.Status().Behind
	if behind {
		story.But(&s, "the kernel has not taken all that was decided, see status")
	}
	if !s.Granted && !behind {
		story.But(&s, d.holding(a))
	}
	if !s.Granted {
		story.But(&s, d.files.naming(a))
	}
	story.But(&s, story.Observed(d.config.Load()))
	return s, ending(err)
}

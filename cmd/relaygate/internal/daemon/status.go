//go:build linux

package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
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

// snapshot is the daemon's status with every bound, whether hit or
// not.
func (d *daemon) snapshot(ctx context.Context) (control.Status, error) {
	s := control.Status{
		Version: d.opts.Version, Since: control.Time{Time: d.started},
		Problems: []string{}, Gate: d.gate.status(), Files: d.files.status(),
		Drops: map[string]uint64{}, Doubts: map[string]uint64{}, Changes: map[string]uint64{},
		Tap: control.Tap{POP3: []uint16{}, IMAP: []uint16{}},
	}
	s.Tap.Kind, s.Tap.Where = d.tap.Where()
	for port, service := range d.opts.Config.Services {
		if service.Protocol == authz.POP3 {
			s.Tap.POP3 = append(s.Tap.POP3, port)
		} else {
			s.Tap.IMAP = append(s.Tap.IMAP, port)
		}
	}
	slices.Sort(s.Tap.POP3)
	slices.Sort(s.Tap.IMAP)
	err := d.owner.ask(ctx, func(now time.Time) { d.owner.status(now, &s) })
	if err != nil {
		return s, fmt.Errorf("relaygate is ending: %w", err)
	}
	s.Drops["watch: events that a watcher was too slow for"] = d.hub.Dropped()
	s.Drops["log: lines dropped"] = d.out.Dropped()
	d.problems(&s)
	d.tls.Status(&s)
	return s, nil
}

// status fills in what the owner knows; it runs in the owner's goroutine.
func (o *owner) status(now time.Time, s *control.Status) {
	counts, flows := o.engine.Counts(), o.engine.Flows()
	s.Now = control.Time{Time: now}
	s.Logins, s.Refused, s.Tainted, s.Encrypted = counts.Logins, counts.Failures, counts.Tainted, counts.Encrypted
	s.Doubts, s.Changes, s.Grants = o.engine.Doubts(), o.engine.Changes(), o.grants().Len()
	t := o.grants()
	s.Sessions, s.Denials = t.Followed(), len(t.Denials())
	if p, ok := t.Paused(); ok {
		s.Paused = &control.Pause{Since: control.Time{Time: p.Since}, By: p.By, Note: p.Note}
	}
	s.Totals = make(map[string]uint64)
	for _, r := range o.counters() {
		s.Totals[r.key], _ = r.value.(uint64)
	}
	stopped := t.Stopped()
	s.Shared, s.Spread = stopped.Users, stopped.Addresses
	dropped := t.Dropped()
	s.Drops["grants: sessions not followed"] = dropped.Sessions
	s.Drops["grants: grants whose users cannot be told"] = dropped.Details
	s.Tap.Flows, s.Tap.Opened, s.Tap.Untrusted = uint64(flows.Open), flows.Opened, counts.Untrusted
	tls := counts.TLS
	s.TLS.Handshakes, s.TLS.Seen, s.TLS.Unseen = tls.Handshakes, tls.Seen, tls.Unseen
	s.Drops["tls: calls of processes that may not speak for the connection"] = tls.Refused
	packets, drops, err := o.tap.Counts()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	s.Tap.Packets = packets
	for name, n := range drops {
		s.Drops[name] = n
	}
	b := flows.Bounds
	for name, n := range map[string]uint64{
		"flows: connections beyond the table": b.Flows, "flows: connections beyond one client's share": b.FlowsPerClient,
		"flows: handshakes beyond the table": b.Handshakes, "flows: in doubt, too many client bytes waiting": b.ClientBytes,
		"flows: in doubt, too many server bytes waiting": b.ServerBytes, "flows: in doubt, too many holes": b.Pieces,
		"flows: in doubt, no buffer left": b.Buffered, "flows: forged segments": flows.Forged,
	} {
		s.Drops[name] = n
	}
	evidence := o.engine.EvidenceCounts()
	s.Drops["evidence: addresses with a login forgotten"] = evidence.EarnedDropped
	s.Drops["evidence: other addresses forgotten"] = evidence.StrangersDropped
	s.Drops["evidence: user names not kept"] = evidence.UsersDropped
	s.Drops["tap: connections that could not be marked as done"] = o.errs
}

// counters are the totals since the state file was made.
func (o *owner) counters() []row {
	c := o.engine.Counts()
	var rows []row
	for name, n := range map[string]uint64{
		"logins": c.Logins, "refused": c.Failures, "tainted": c.Tainted, "encrypted": c.Encrypted,
	} {
		rows = append(rows, row{bucket: countersBucket, key: name, value: o.before[name] + n})
	}
	return rows
}

// problems says in words what a person should look at.
func (d *daemon) problems(s *control.Status) {
	if !s.Gate.Up && s.Gate.Missing == "" {
		s.Problems = append(s.Problems, "the gate is missing in the kernel: "+s.Gate.LastError)
	}
	if s.Gate.Up && s.Gate.Behind {
		s.Problems = append(s.Problems, "the kernel has not taken all that was decided, which is tried again: "+s.Gate.LastError)
	}
	if s.Gate.Missing != "" {
		s.Problems = append(s.Problems, "nftables cannot be used, so that no set shows who would be let in: "+s.Gate.Missing)
	}
	if s.Gate.Unfit != "" {
		s.Problems = append(s.Problems, s.Gate.Unfit)
	}
	if s.Gate.Lacks != "" {
		s.Problems = append(s.Problems, "this kernel cannot do all that is configured: "+s.Gate.Lacks)
	}
	if s.Paused != nil {
		s.Problems = append(s.Problems, "it is paused by "+s.Paused.By+": nothing is granted")
	}
	s.Problems = append(s.Problems, d.tap.Problems()...)
	st := d.keeper.store.Stats()
	s.State = control.State{
		Path: d.opts.Config.StatePath, Written: control.Time{Time: st.Written}, Records: st.Records,
		Errors: st.Errors, Pending: d.keeper.pending(), Error: st.LastError, Aside: d.keeper.store.Aside(),
	}
	s.Drops["state: changes without room"] = st.Lost
	s.Drops["connections: expired grants whose connections were not ended"] = d.cutter.dropped.Load()
	if st.LastError != "" {
		s.Problems = append(s.Problems, "the state cannot be written, so that a restart would forget: "+st.LastError)
	}
	if since := time.Since(st.Began); !st.Began.IsZero() && since > hangsAfter {
		s.Problems = append(s.Problems, "the state is being written for "+authz.Span(since)+": its file system hangs, so that a restart would forget")
	}
	if words := d.files.hangs(time.Now()); words != "" {
		s.Problems = append(s.Problems, words)
	}
	if s.State.Aside != "" {
		s.Problems = append(s.Problems, s.State.Aside)
	}
	if words := d.metrics.Problem(); words != "" {
		s.Problems = append(s.Problems, words)
	}
	if words := d.reloadError.Load(); words != nil {
		s.Problems = append(s.Problems, *words)
	}
	for _, f := range s.Files {
		if f.Error != "" {
			s.Problems = append(s.Problems, fmt.Sprintf("%s cannot be written: %s", f.Path, f.Error))
		}
		if f.Others != "" {
			s.Problems = append(s.Problems, "others may let anybody relay: "+f.Others)
		}
	}
}

// Grants answers the control socket.
func (d *daemon) Grants(ctx context.Context) ([]control.Grant, error) {
	type listed struct {
		prefix netip.Prefix
		shape  control.Grant
	}
	var list []listed
	err := d.owner.parts(ctx, func(g *grant.Grant) { list = append(list, listed{g.Prefix, control.NewGrant(g)}) })
	if err != nil {
		return nil, fmt.Errorf("relaygate is ending: %w", err)
	}
	slices.SortFunc(list, func(a, b listed) int { return a.prefix.Compare(b.prefix) })
	out := make([]control.Grant, len(list))
	for i := range list {
		out[i] = list[i].shape
	}
	return out, nil
}

// Denials answers the control socket.
func (d *daemon) Denials(ctx context.Context) ([]control.Denial, error) {
	out := []control.Denial{}
	err := d.owner.ask(ctx, func(time.Time) {
		for _, n := range d.owner.grants().Denials() {
			out = append(out, control.Denial{
				Prefix: n.Prefix, Since: control.Time{Time: n.Since}, Until: control.Time{Time: n.Until}, By: n.By, Note: n.Note,
			})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("relaygate is ending: %w", err)
	}
	return out, nil
}

// Why answers the control socket.
func (d *daemon) Why(ctx context.Context, a netip.Addr) (control.Story, error) {
	story := control.Story{Address: a, Events: []control.Event{}}
	err := d.owner.ask(ctx, func(now time.Time) {
		t, events := d.owner.grants(), d.owner.engine.Story(a, now)
		for i := range events {
			story.Events = append(story.Events, control.NewEvent(&events[i]))
		}
		g, ok := t.Get(a)
		if ok {
			shape := control.NewGrant(&g)
			story.Granted, story.Grant = true, &shape
		}
		paused, _ := t.Paused()
		story.Reason = reason(g, ok, paused, t.Check(a), events, now)
	})
	if err != nil {
		return story, fmt.Errorf("relaygate is ending: %w", err)
	}
	if d.gate.status().Behind {
		story.Reason += "; but the kernel has not taken all that was decided, see status"
	}
	return story, nil
}

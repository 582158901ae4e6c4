// Package story answers why an address may relay, or why not: from the tables of the
// daemon that runs, or from what was left of one that does not.
package story

import (
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// Words are what is said of an address with a grant, and of one without.
type Words struct{ Granted, Not string }

var (
	// Live: the daemon sees to it.
	Live = Words{"may relay", "may not relay"}
	// Left: nobody does.
	Left = Words{"has a grant", "has no grant"}
)

// Of tells the story of an address as the table and the journal have it. Before is what
// the files for mail servers held before the first start.
func (w Words) Of(t *grant.Table, journal *authz.Evidence, before []authz.Event, a netip.Addr, now time.Time) control.Story {
	s := control.Story{Address: a, Events: []control.Event{}}
	events := slices.Concat(before, journal.Story(a, now))
	slices.SortStableFunc(events, func(a, b authz.Event) int { return a.Last.Compare(b.Last) })
	for i := range events {
		s.Events = append(s.Events, control.NewEvent(&events[i]))
	}
	g, ok := t.Get(a)
	if ok {
		shape := control.NewGrant(&g)
		s.Granted, s.Grant = true, &shape
	}
	paused, _ := t.Paused()
	s.Reason = w.reason(g, ok, paused, t.Check(a), events, now)
	return s
}

// Denials are those in force, as list tells them.
func Denials(t *grant.Table) []control.Denial {
	out := []control.Denial{}
	for _, n := range t.Denials() {
		out = append(out, control.Denial{
			Prefix: n.Prefix, Since: control.Time{Time: n.Since}, Until: control.Time{Time: n.Until}, By: n.By, Note: n.Note,
		})
	}
	return out
}

// Paused is the pause in force, nil if there is none.
func Paused(t *grant.Table) *control.Pause {
	p, ok := t.Paused()
	if !ok {
		return nil
	}
	return &control.Pause{Since: control.Time{Time: p.Since}, By: p.By, Note: p.Note}
}

// Observed says that nothing is opened or closed by a grant, "" if something is.
func Observed(cfg *config.Config) string {
	if cfg.Gate.Mode != nft.Observe || cfg.Relayhosts != "" {
		return ""
	}
	return "gate.mode is observe and files.relayhosts is empty, so that nothing is opened or closed by it"
}

// But appends what else there is to say, unless that is nothing.
func But(s *control.Story, words string) {
	if words != "" {
		s.Reason += "; but " + words
	}
}

//go:build linux

package daemon

import (
	"fmt"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// reason says why an address may relay, or why not: it completes the sentence
// "192.0.2.7 …".
func reason(g grant.Grant, granted bool, paused grant.Pause, d authz.Decision, events []authz.Event, now time.Time) string {
	switch {
	case granted && g.Source == grant.Always:
		return "may relay: it " + d.Reason
	case granted:
		return "may relay: " + grantedReason(&g, now) + brakedReason(events, now)
	case d.Rule == authz.RuleNever, d.Rule == authz.RuleDeny, d.Rule == authz.RuleInvalid:
		return "may not relay: it " + d.Reason
	case !d.Allow:
		return "may not relay: it " + d.Reason + ", and such an address is never granted"
	case !paused.Since.IsZero():
		return fmt.Sprintf("may not relay: nothing is granted, paused by %s %v ago%s",
			authz.Quote(paused.By), now.Sub(paused.Since).Round(time.Second), noteWords(paused.Note))
	case len(events) == 0:
		return "may not relay: nothing has been seen from it, or it is too long ago"
	}
	return "may not relay: " + lastDecision(events, now)
}

func grantedReason(g *grant.Grant, now time.Time) string {
	left := g.Expires.Sub(now).Round(time.Second)
	if g.Sessions > 0 {
		words := fmt.Sprintf("open sessions hold it (%d), and its time runs out %v after the last one closes", g.Sessions, left)
		if len(g.Users) > 0 && g.Users[0].Name != "" {
			words = authz.Quote(g.Users[0].Name) + " logged in from it; " + words
		}
		return words
	}
	switch {
	case g.Source == grant.Manual:
		return fmt.Sprintf("granted by hand by %s%s; its time runs out in %v", authz.Quote(g.By), noteWords(g.Note), left)
	case g.Source == grant.Import:
		return fmt.Sprintf("the gate held it when relaygate started; its time runs out in %v", left)
	case len(g.Users) == 0 || g.Users[0].Name == "":
		return fmt.Sprintf("somebody logged in from it; its time runs out in %v", left)
	}
	return fmt.Sprintf("%s logged in from it by %s; its time runs out in %v",
		authz.Quote(g.Users[0].Name), g.Users[0].Protocol, left)
}

// brakedReason tells of connections that a brake refused of late.
func brakedReason(events []authz.Event, now time.Time) string {
	const lately = 10 * time.Minute
	for i := len(events) - 1; i >= 0; i-- {
		if ev := &events[i]; ev.Kind == authz.EventBraked && now.Sub(ev.Last) < lately {
			return fmt.Sprintf("; but %v ago %s", now.Sub(ev.Last).Round(time.Second), ev.Reason)
		}
	}
	return ""
}

// lastDecision tells the latest event that decided something, else what was
// seen at all.
func lastDecision(events []authz.Event, now time.Time) string {
	for i := len(events) - 1; i >= 0; i-- {
		ev := &events[i]
		ago := now.Sub(ev.Last).Round(time.Second)
		switch ev.Kind {
		case authz.EventExpired:
			return fmt.Sprintf("its grant ran out %v ago", ago)
		case authz.EventRevoked:
			return fmt.Sprintf("its grant was closed %v ago: %s", ago, ev.Reason)
		case authz.EventRefused:
			return fmt.Sprintf("a login was seen %v ago and granted nothing: %s", ago, ev.Reason)
		}
	}
	counts := make(map[authz.EventKind]int)
	for i := range events {
		counts[events[i].Kind] += events[i].Count
	}
	last := &events[len(events)-1]
	switch {
	case counts[authz.EventFailure] > 0:
		return fmt.Sprintf("no login from it succeeded (%d were refused by the server)", counts[authz.EventFailure])
	case last.Kind == authz.EventTainted:
		return "its connection was in doubt: " + last.Reason
	case last.Kind == authz.EventEncrypted:
		return "its connection went on in TLS, which was not read: " + last.Reason
	case last.Kind == authz.EventUntrusted:
		return "it connected to a listener that is not believed: " + last.Reason
	}
	return "it has no grant"
}

func noteWords(note string) string {
	if note == "" {
		return ""
	}
	return " (" + authz.QuoteWords(note) + ")"
}

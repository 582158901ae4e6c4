package story

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
)

// reason says why an address may relay, or why not: it completes the sentence
// "192.0.2.7 …".
func (w Words) reason(g grant.Grant, granted bool, paused grant.Pause, d authz.Decision, events []authz.Event, now time.Time) string {
	switch {
	case granted && g.Source == grant.Always:
		return w.Granted + ": it " + d.Reason
	case granted:
		return w.Granted + ": " + grantedReason(&g, events, now) + butReason(events, now)
	case d.Rule == authz.RuleNever, d.Rule == authz.RuleDeny, d.Rule == authz.RuleInvalid:
		return w.Not + ": it " + d.Reason
	case d.Rule == authz.RuleOwn, d.Rule == authz.RuleLoopback:
		return "holds no grant: it " + d.Reason + ", and such an address is never granted; what this host itself sends needs none"
	case !d.Allow:
		return w.Not + ": it " + d.Reason + ", and such an address is never granted"
	case !paused.Since.IsZero():
		return fmt.Sprintf("%s: nothing is granted, paused by %s %s%s",
			w.Not, authz.Quote(paused.By), authz.Ago(now.Sub(paused.Since)), control.NoteText(paused.Note))
	case len(events) == 0:
		return w.Not + ": nothing has been seen from it, or it is too long ago"
	}
	return w.Not + ": " + withOthers(events, now)
}

// withOthers is the last decision about an address, and which file or set had named it
// without one.
func withOthers(events []authz.Event, now time.Time) string {
	others := func(e authz.Event) bool { return e.Kind == authz.EventFile || e.Kind == authz.EventSet }
	words := "no login from it is known"
	if own := slices.DeleteFunc(slices.Clone(events), others); len(own) > 0 {
		words = lastDecision(own, now)
	}
	for _, ev := range slices.Backward(events) {
		if others(ev) {
			return fmt.Sprintf("%s; it %s (%s)", words, ev.Reason, authz.Ago(now.Sub(ev.Last)))
		}
	}
	return words
}

func grantedReason(g *grant.Grant, events []authz.Event, now time.Time) string {
	left := authz.Span(g.Expires.Sub(now))
	who, protocol := lastUser(g, events)
	from := "it"
	if !g.Prefix.IsSingleIP() { // from some address there
		from = authz.PrefixString(g.Prefix)
	}
	switch {
	case g.Sessions > 0:
		words := fmt.Sprintf("held by %s, and its time runs out %s after the last one closes", authz.Count(g.Sessions, "open session"), left)
		if who != "" {
			words = fmt.Sprintf("%s logged in from %s; %s", authz.Quote(who), from, words)
		}
		return words
	case g.Source == grant.Manual:
		return fmt.Sprintf("granted by hand by %s%s; its time runs out in %s", authz.Quote(g.By), control.NoteText(g.Note), left)
	case g.Source == grant.Import:
		return fmt.Sprintf("the gate held it when relaygate started; its time runs out in %s", left)
	case who == "":
		return fmt.Sprintf("somebody logged in from %s; its time runs out in %s", from, left)
	}
	return fmt.Sprintf("%s logged in from %s by %s; its time runs out in %s", authz.Quote(who), from, protocol, left)
}

// lastUser is whose login opened or renewed the grant last: later ones may have
// been refused.
func lastUser(g *grant.Grant, events []authz.Event) (name string, protocol authz.Protocol) {
	for _, ev := range slices.Backward(events) {
		if (ev.Kind == authz.EventGranted || ev.Kind == authz.EventRenewed) && ev.User != "" {
			return ev.User, ev.Conn.Service.Protocol
		}
	}
	if len(g.Users) == 0 {
		return "", 0
	}
	return g.Users[0].Name, g.Users[0].Protocol
}

// butReason tells what does not go well of late with an address that may relay: a
// login that renewed nothing, connections that a brake refused.
func butReason(events []authz.Event, now time.Time) (words string) {
	const lately = 10 * time.Minute
	for _, ev := range slices.Backward(events) {
		if ev.Kind == authz.EventGranted || ev.Kind == authz.EventRenewed || now.Sub(ev.Last) > lately {
			break
		}
		if ev.Kind == authz.EventRefused && ev.By == "" { // else it was an order
			words = fmt.Sprintf("; but the login of %s renewed nothing: %s", cmp.Or(authz.Quote(ev.User), "somebody"), ev.Reason)
			break
		}
	}
	for _, ev := range slices.Backward(events) {
		if ev.Kind == authz.EventBraked && now.Sub(ev.Last) < lately {
			return words + fmt.Sprintf("; but %s %s", authz.Ago(now.Sub(ev.Last)), ev.Reason)
		}
	}
	return words
}

// lastDecision tells the latest event that decided something, else what was
// seen at all.
func lastDecision(events []authz.Event, now time.Time) string {
	for i := len(events) - 1; i >= 0; i-- {
		ev := &events[i]
		ago := authz.Ago(now.Sub(ev.Last))
		switch ev.Kind {
		case authz.EventExpired:
			return fmt.Sprintf("its grant ran out %s", ago)
		case authz.EventRevoked:
			return fmt.Sprintf("its grant was closed %s: %s", ago, clause(ev.Reason))
		case authz.EventRefused:
			if ev.By == "" { // else it was an order
				return fmt.Sprintf("a login was seen %s and granted nothing: %s", ago, clause(ev.Reason))
			}
		}
	}
	counts := make(map[authz.EventKind]int)
	for i := range events {
		counts[events[i].Kind] += events[i].Count
	}
	last := &events[len(events)-1]
	switch {
	case counts[authz.EventFailure] > 0:
		return fmt.Sprintf("no login from it succeeded (the server refused %d)", counts[authz.EventFailure])
	case last.Kind == authz.EventTainted:
		return "its connection was in doubt: " + last.Reason
	case last.Kind == authz.EventEncrypted:
		return "its connection went on in TLS, which was not read: " + last.Reason
	case last.Kind == authz.EventUntrusted:
		return "it connected to a listener that is not believed: " + last.Reason
	}
	return "it has no grant"
}

// clause makes a whole clause of a reason that completes "192.0.2.7: …".
func clause(reason string) string {
	for _, predicate := range []string{"is ", "has ", "contains "} {
		if strings.HasPrefix(reason, predicate) {
			return "it " + reason
		}
	}
	return reason
}

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

func statusCommand(e *env) *cobra.Command {
	var flags clientFlags
	var check bool
	cmd := flags.orOffline(&cobra.Command{
		Use:   "status",
		Short: "Tell what relaygate does and how it is",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			client := flags.client(e)
			if check {
				client.Within = checkWithin
			}
			s, err := client.Status(cmd.Context())
			switch {
			case check:
				return checkStatus(e, &s, err, flags.json)
			case err != nil:
				return statusOffline(e, &flags, err)
			case flags.json:
				return printJSON(e, s)
			}
			printStatus(folded(e), &s)
			return nil
		}),
	})
	cmd.Flags().BoolVar(&check, "check", false, "one line and a monitoring exit code: 0 good, 1 warning, 2 critical")
	return cmd
}

// statusOffline tells what is left of a daemon that does not answer, and fails all the
// same: its status is that.
func statusOffline(e *env, flags *clientFlags, err error) error {
	absent, err := flags.absent(err)
	if err != nil {
		return err
	}
	s, err := absent.Status(e.Now())
	if err != nil {
		return err
	}
	silent := &failure{err: errors.New(s.Offline.Why), code: exitFailed, silent: true}
	if flags.json {
		if err := printJSON(e, s); err != nil {
			return err
		}
		return silent
	}
	now, o := e.Now(), s.Offline
	e = folded(e)
	printOffline(e, o, now)
	printPaused(e, s.Paused, now)
	e.say("Grants:  %d; %s.", s.Grants, authz.Count(s.Denials, "denial"))
	printAround(e, o)
	return silent
}

// checkWithin is less than the 10 s after which monitoring systems give a plugin up by
// default, and say that they do not know.
const checkWithin = 8 * time.Second

// The exit codes that monitoring plugins agree on.
const (
	checkWarning  = 1
	checkCritical = 2
)

// checkStatus prints one line, or with asJSON the status, and fails with the code.
func checkStatus(e *env, s *control.Status, err error, asJSON bool) error {
	word, code := "OK", 0
	text := authz.Count(s.Grants, "grant") + ", " + authz.Count(s.Logins, "login")
	switch {
	case err != nil:
		word, code, text = "CRITICAL", checkCritical, err.Error()
	case !s.Gate.Up && s.Gate.Missing == "":
		word, code, text = "CRITICAL", checkCritical, strings.Join(s.Problems, "; ")
	case len(s.Problems) > 0:
		word, code, text = "WARNING", checkWarning, strings.Join(s.Problems, "; ")
	}
	switch {
	case !asJSON:
		e.say("RELAYGATE %s: %s", word, text)
	case err != nil:
		return &failure{err: err, code: code}
	default:
		if err := printJSON(e, s); err != nil {
			return err
		}
	}
	if code == 0 {
		return nil
	}
	return &failure{err: errors.New(text), code: code, silent: true}
}

func printStatus(e *env, s *control.Status) {
	now := e.Now()
	e.say("relaygate %s, started %s.", s.Version, relative(s.Since.Time, now))
	for _, p := range s.Problems {
		e.say("%s: %s.", colour(e, red, "Problem"), p)
	}
	e.say("Tap:     %s (%s): POP3 on %s; IMAP on %s.", s.Tap.Kind, s.Tap.Where, config.PortWords(s.Tap.POP3), config.PortWords(s.Tap.IMAP))
	e.say("Flows:   %d now, %d since the start; %d more to listeners that are not believed; %s read.",
		s.Tap.Flows, s.Tap.Opened, s.Tap.Untrusted, authz.Count(s.Tap.Packets, "packet"))
	printTLS(e, &s.TLS)
	e.say("Logins:  %d proved, %d refused by the server; %s in doubt, %d in TLS that was not read.",
		s.Logins, s.Refused, authz.Count(s.Tainted, "connection"), s.Encrypted)
	if len(s.Doubts) > 0 {
		e.say("Doubt:   %s: %s.", authz.Count(s.Tainted, "connection"), doubtText(s.Doubts))
	}
	printPaused(e, s.Paused, now)
	e.say("Grants:  %d now, %s open; %s.", s.Grants, authz.Count(s.Sessions, "session"), authz.Count(s.Denials, "denial"))
	printGate(e, &s.Gate, now)
	printBrakes(e, s, now)
	for _, f := range s.Files {
		changed := ""
		if f.Changed > 0 {
			changed = fmt.Sprintf("; changed by somebody else %s, last %s", authz.Count(f.Changed, "time"), relative(f.ChangedAt.Time, now))
		}
		e.say("File:    %s, written %s%s.", f.Path, relative(f.Written.Time, now), changed)
	}
	e.say("State:   %s, written %s.", s.State.Path, relative(s.State.Written.Time, now))
	if len(s.Drops) == 0 {
		e.say("Drops:   none: no bound was hit.")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Drops)) {
		e.say("Drops:   %s: %d.", name, s.Drops[name])
	}
}

func printPaused(e *env, p *control.Pause, now time.Time) {
	if p != nil {
		e.say("Paused:  %s by %s%s: nothing is granted.", authz.Ago(now.Sub(p.Since.Time)), p.By, control.NoteText(p.Note))
	}
}

// printTLS tells whose TLS is read.
func printTLS(e *env, t *control.TLS) {
	switch {
	case t.On:
		e.say("TLS:     %s, %d of them read.", authz.Count(t.Handshakes, "connection"), t.Seen)
	case t.Why != "":
		e.say("TLS:     not read: %s.", t.Why)
	default:
		e.say("TLS:     not read: watch.tls is off.")
	}
	for _, s := range t.Servers {
		switch {
		case s.TLS && s.Handshakes > 0:
			e.say("         %s (%d of %s).", authz.Quote(string(s.Words)), s.Read, authz.Count(s.Handshakes, "connection"))
		case s.TLS:
			e.say("         %s.", authz.Quote(string(s.Words)))
		}
	}
}

// doubtText names the reasons, the most frequent first.
func doubtText(doubts map[string]uint64) string {
	reasons := byCount(doubts)
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", doubts[reason], reason)
	}
	return strings.Join(reasons, ", ")
}

func printGate(e *env, g *control.Gate, now time.Time) {
	words := g.Words
	if !g.Up && g.Missing == "" {
		words = colour(e, red, "MISSING in the kernel.") + " " + words
	}
	e.say("Gate:    %s", words)
	if g.Losses > 0 {
		e.say("         lost %s, rebuilt %s; last %s: %s.", authz.Count(g.Losses, "time"), authz.Count(g.Rebuilds, "time"), relative(g.LastLossAt.Time, now), g.LastLoss)
	}
	if g.Errors > 0 {
		e.say("         %s; the last: %s.", authz.Count(g.Errors, "error"), g.LastError)
	}
	if g.MaxDelay.Duration > 0 { // orders open it too, and have no answer
		e.say("         from the server's answer to the open gate: last %.2f ms, longest %.2f ms.",
			g.LastDelay.Seconds()*1e3, g.MaxDelay.Seconds()*1e3)
	}
}

// printBrakes tells what the brakes stopped.
func printBrakes(e *env, s *control.Status, now time.Time) {
	g := &s.Gate
	if n := g.TooFast + g.TooMany; n > 0 {
		e.say("Brakes:  %s %s to granted addresses: %d too many in a minute, %d too many at a time; last %s.",
			authz.Count(n, "connection"), colour(e, yellow, "refused"), g.TooFast, g.TooMany, relative(g.LastBite.Time, now))
	}
	if n := s.Shared + s.Spread; n > 0 {
		e.say("Brakes:  %s %s: %d from addresses of too many users, %d of users with too many addresses.",
			authz.Count(n, "login"), colour(e, yellow, "granted nothing"), s.Shared, s.Spread)
	}
}

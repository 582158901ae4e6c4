package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

func whyCommand(e *env) *cobra.Command {
	var flags clientFlags
	return flags.orOffline(&cobra.Command{
		Use:   "why ADDRESS",
		Short: "Tell why an address may relay, or why not",
		Long: `Tell why an address may relay or may not, and all that was seen of it.

While no daemon answers, this is told from what it left: its state file, whether
the kernel and relayhosts still let the address in, and what to do.`,
		Args: takes("an ADDRESS", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(strings.Trim(args[0], "[]")) // as the logs of mail servers write it
			if err != nil || addr.Zone() != "" {
				if p, err := netip.ParsePrefix(args[0]); err == nil {
					return &usageError{fmt.Errorf("%q is a network: name one address of it, like %s", args[0], p.Masked().Addr())}
				}
				return &usageError{fmt.Errorf("%q is no address", args[0])}
			}
			story, err := flags.client(e).Why(cmd.Context(), addr.Unmap())
			if err != nil {
				absent, err := flags.absent(err)
				if err != nil {
					return err
				}
				if story, err = absent.Why(addr.Unmap(), e.Now()); err != nil {
					return err
				}
			}
			if flags.json {
				return printJSON(e, story)
			}
			return printStory(folded(e), &story)
		}),
	})
}

func printStory(e *env, s *control.Story) error {
	now := e.Now()
	if s.Offline != nil {
		printOffline(e, s.Offline, now)
	}
	paint := yellow
	if s.Granted {
		paint = green
	}
	e.say("%s %s.", colour(e, paint, s.Address.String()), s.Reason)
	if g := s.Grant; g != nil {
		with := ""
		if g.Prefix != nil {
			with = "with all of " + g.Name() + " "
		}
		e.say("Granted %s%s.", with, strings.Join(grantText(g, now), "; "))
	}
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	for i := range s.Events {
		ev := &s.Events[i]
		fmt.Fprintf(w, "  %s\t%s\t%s\n", relative(ev.Time.Time, now), ev.Event, eventText(ev, s.Address.String(), now))
	}
	if s.Offline != nil {
		defer printAround(e, s.Offline)
	}
	return w.Flush()
}

// grantText tells of a grant that stands.
func grantText(g *control.Grant, now time.Time) []string {
	words := []string{relative(g.Since.Time, now)}
	switch {
	case g.Expires.IsZero():
		words = append(words, "it never runs out")
	case g.Sessions > 0:
		words = append(words, "held by "+authz.Count(g.Sessions, "open session"))
	default:
		words = append(words, "runs out "+relative(g.Expires.Time, now))
	}
	if g.Logins > 0 {
		words = append(words, authz.Count(g.Logins, "login"))
	}
	return words
}

// eventText is an event in the story of an address in words.
func eventText(ev *control.Event, address string, now time.Time) string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if ev.Count > 1 {
		say("%d times", ev.Count)
	}
	if ev.Client != "" && ev.Client != address {
		say("%s", ev.Client) // a network around it, or another address of that
	}
	switch ev.Event {
	case "login", "failure", "tainted", "encrypted", "untrusted":
		words = append(words, seenText(ev)...)
	default: // what a login led to needs no second telling of how it was made
	}
	switch {
	case ev.Until == nil, ev.Event == "revoked", ev.Event == "expired":
	case ev.Event == "refused":
		say("what stands lasts until %s", clock(ev.Until.Time, now))
	default:
		say("until %s (%s)", clock(ev.Until.Time, now), relative(ev.Until.Time, now))
	}
	switch {
	case ev.By == "":
	case ev.Event == "refused":
		say("ordered by %s", authz.Quote(ev.By))
	case !strings.Contains(ev.Reason, ev.By):
		say("by %s", authz.Quote(ev.By))
	}
	text, reason := strings.TrimSpace(strings.Join(words, " ")), ev.Reason
	if ev.Event == "denied" && ev.Until != nil { // it has been told
		reason = strings.TrimSuffix(reason, ", until "+ev.Until.UTC().Format(time.RFC3339))
	}
	switch {
	case reason == "":
		return text
	case text == "":
		return reason
	}
	return text + ": " + reason
}

// seenText is what was seen of a connection in words.
func seenText(ev *control.Event) (words []string) {
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if ev.User != "" {
		say("%s", authz.Quote(string(ev.User)))
	}
	if ev.Protocol != "" {
		say("by %s", strings.TrimSpace(ev.Protocol+" "+authz.Quote(string(ev.Mechanism))))
		if ev.TLS {
			say("in TLS")
		}
	}
	if ev.Port != 0 {
		say("from port %d to %s", ev.Port, net.JoinHostPort(ev.Server, strconv.Itoa(int(ev.ServerPort))))
	}
	if ev.Answer != "" {
		say("answered %s", authz.Quote("“"+string(ev.Answer)+"”"))
	}
	return words
}

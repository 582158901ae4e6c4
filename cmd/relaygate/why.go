package main

import (
	"encoding/json"
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
	return flags.add(&cobra.Command{
		Use:   "why ADDRESS",
		Short: "Tell why an address may relay, or why not",
		Args:  cobra.ExactArgs(1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil || addr.Zone() != "" {
				return &usageError{fmt.Errorf("%q is no address", args[0])}
			}
			story, err := flags.client(e).Why(cmd.Context(), addr.Unmap())
			if err != nil {
				return err
			}
			if flags.json {
				return json.NewEncoder(e.Stdout).Encode(&story)
			}
			return printStory(e, &story)
		}),
	})
}

func printStory(e *env, s *control.Story) error {
	now := e.Now()
	paint := yellow
	if s.Granted {
		paint = green
	}
	fmt.Fprintf(e.Stdout, "%s %s.\n", colour(e, paint, s.Address.String()), s.Reason)
	if s.Grant != nil {
		runsOut := "runs out " + relative(s.Grant.Expires.Time, now)
		if s.Grant.Sessions > 0 {
			runsOut = "held by " + count(s.Grant.Sessions, "open session")
		}
		fmt.Fprintf(e.Stdout, "Granted %s; %s; %s.\n", relative(s.Grant.Since.Time, now), runsOut, count(s.Grant.Logins, "login"))
	}
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	for i := range s.Events {
		ev := &s.Events[i]
		fmt.Fprintf(w, "  %s\t%s\t%s\n", relative(ev.Time.Time, now), ev.Event, eventText(ev, now))
	}
	return w.Flush()
}

// eventText is an event in words.
func eventText(ev *control.Event, now time.Time) string {
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if ev.Count > 1 {
		say("%d times", ev.Count)
	}
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
	if ev.Until != nil {
		say("until %s (%s)", ev.Until.Local().Format("15:04:05"), relative(ev.Until.Time, now))
	}
	if ev.By != "" && !strings.Contains(ev.Reason, ev.By) {
		say("by %s", authz.Quote(ev.By))
	}
	text := strings.TrimSpace(strings.Join(words, " "))
	switch {
	case ev.Reason == "":
		return text
	case text == "":
		return ev.Reason
	}
	return text + ": " + ev.Reason
}

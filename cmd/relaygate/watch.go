package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
)

func watchCommand(e *env) *cobra.Command {
	var flags clientFlags
	return flags.add(&cobra.Command{
		Use:   "watch",
		Short: "Show what happens, as it happens",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			clients := len("255.255.255.255") // the widest so far
			return flags.client(e).Watch(cmd.Context(), func(line []byte) error {
				if flags.json {
					_, err := fmt.Fprintf(e.Stdout, "%s\n", line)
					return err
				}
				return printEvent(e, line, &clients)
			})
		}),
	})
}

// watched is what both shapes of the stream have in common.
type watched struct {
	Event, Client, Protocol, Mechanism, User, Result, Reason string

	Time string
	Port uint16 `json:"client_port"`
}

// printEvent prints one line. Its columns are those of the line before, but that an
// IPv6 address may widen the clients'.
func printEvent(e *env, line []byte, clients *int) error {
	var ev watched
	if err := json.Unmarshal(line, &ev); err != nil {
		return fmt.Errorf("read relaygate's event: %w", err)
	}
	what, paint := ev.Event, plain
	if ev.Result != "" {
		what = ev.Result
	}
	switch what {
	case "success", "grant", "renew", "resume", "undeny":
		paint = green
	case "expire", "encrypted", "coverage", "reload":
		paint = yellow
	case "failure", "tainted", "deny", "revoke", "pause", "gate", "brake", "drop", "file", "set":
		paint = red
	}
	when := ev.Time
	if t, err := time.Parse(time.RFC3339Nano, ev.Time); err == nil {
		when = t.Local().Format("15:04:05.000")
	}
	*clients = max(*clients, len(ev.Client))
	line = fmt.Appendf(nil, "%s  %s  %-*s  %-4s  %s  %s  %s", when, colour(e, paint, fmt.Sprintf("%-9s", what)),
		*clients, cmp.Or(ev.Client, "-"), cmp.Or(ev.Protocol, "-"), pad(cmp.Or(authz.Quote(ev.Mechanism), "-"), 10), pad(cmp.Or(authz.Quote(ev.User), "-"), 20), ev.Reason)
	_, err := fmt.Fprintf(e.Stdout, "%s\n", bytes.TrimRight(line, " "))
	return err
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/offline"
	"relaygate/nft"
)

func listCommand(e *env) *cobra.Command {
	var flags clientFlags
	var denied bool
	cmd := flags.orOffline(&cobra.Command{
		Use:   "list",
		Short: "List who may relay now",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			if denied {
				return listDenials(e, cmd, &flags)
			}
			return listGrants(e, cmd, &flags)
		}),
	})
	cmd.Flags().BoolVar(&denied, "denied", false, "list what is denied instead")
	return cmd
}

func listGrants(e *env, cmd *cobra.Command, flags *clientFlags) error {
	client := flags.client(e)
	return list(e, cmd, flags, client.Grants, (*offline.Daemon).Grants, func(grants []control.Grant, live bool) error {
		none := "Nobody has a grant.\n"
		if live {
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			printPaused(e, s.Paused, e.Now())
			if s.Gate.Mode == nft.Observe.String() && len(s.Files) == 0 {
				e.say("Nothing is opened or closed: gate.mode is observe, and no file is written.")
			} else {
				none = "Nobody may relay: there is no grant.\n"
			}
		}
		if len(grants) == 0 {
			fmt.Fprint(e.Stdout, none)
			return nil
		}
		return printGrants(e, grants)
	})
}

// list prints what the daemon answers, or where none does what it left: as JSON, or by
// print.
func list[T any](e *env, cmd *cobra.Command, flags *clientFlags, ask func(context.Context) ([]T, error),
	left func(*offline.Daemon, time.Time) ([]T, control.Offline, error), print func(answer []T, live bool) error,
) error {
	answer, err := ask(cmd.Context())
	switch {
	case err == nil && flags.json:
		return printJSON(e, answer...)
	case err == nil:
		return print(answer, true)
	}
	absent, err := flags.absent(err)
	if err != nil {
		return err
	}
	answer, about, err := left(absent, e.Now())
	if err != nil {
		return err
	}
	if flags.json {
		noteOffline(e, &about, e.Now())
		return printJSON(e, answer...)
	}
	printOffline(folded(e), &about, e.Now())
	if err := print(answer, false); err != nil {
		return err
	}
	printAround(folded(e), &about)
	return nil
}

func printGrants(e *env, grants []control.Grant) error {
	now := e.Now()
	w := tabwriter.NewWriter(folded(e).Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSINCE\tRUNS OUT\tBY\tPROTOCOL\tSESSIONS\tUSERS")
	for i := range grants {
		g := &grants[i]
		var users []string
		for _, u := range g.Users {
			// A comma in a name would make two users of one.
			users = append(users, strings.ReplaceAll(authz.Quote(string(u)), ",", `\x2c`))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", g.Name(), since(g.Since.Time, now), relative(g.Expires.Time, now),
			g.Source, cmp.Or(g.Protocol, "-"), g.Sessions, cmp.Or(strings.Join(users, ", "), "-"))
	}
	return w.Flush()
}

// since is relative, for what may not have begun.
func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return relative(t, now)
}

// listDenials lists the denials that were made while running.
func listDenials(e *env, cmd *cobra.Command, flags *clientFlags) error {
	return list(e, cmd, flags, flags.client(e).Denials, (*offline.Daemon).Denials, func(denials []control.Denial, _ bool) error {
		return printDenials(e, denials)
	})
}

func printDenials(e *env, denials []control.Denial) error {
	if len(denials) == 0 {
		e.say("Nothing is denied.")
		return nil
	}
	now := e.Now()
	w := tabwriter.NewWriter(folded(e).Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSINCE\tRUNS OUT\tBY\tNOTE")
	for i := range denials {
		d := &denials[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", authz.PrefixString(d.Prefix), relative(d.Since.Time, now),
			relative(d.Until.Time, now), authz.Quote(d.By), cmp.Or(authz.QuoteWords(d.Note), "-"))
	}
	return w.Flush()
}

package main

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
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
	grants, err := flags.client(e).Grants(cmd.Context())
	var about *control.Offline
	if err != nil {
		absent, err := flags.absent(err)
		if err != nil {
			return err
		}
		left, o, err := absent.Grants(e.Now())
		if err != nil {
			return err
		}
		grants, about = left, &o
	}
	return listed(e, flags, grants, about, func() error {
		none := "Nobody has a grant."
		if about == nil {
			s, err := flags.client(e).Status(cmd.Context())
			if err != nil {
				return err
			}
			none = "Nobody may relay: there is no grant."
			if s.Gate.Mode == nft.Observe.String() && len(s.Files) == 0 {
				none = ""
				fmt.Fprintln(e.Stdout, "Nothing is opened or closed: gate.mode is observe, and no file is written.")
			}
		}
		if len(grants) > 0 {
			return printGrants(e, grants)
		}
		if none != "" {
			fmt.Fprintln(e.Stdout, none)
		}
		return nil
	})
}

// listed prints a list as JSON, or by print; about is of one that no daemon gave.
func listed[T any](e *env, flags *clientFlags, list []T, about *control.Offline, print func() error) error {
	switch {
	case flags.json && about != nil:
		noteOffline(e, about, e.Now())
		return printJSON(e, list...)
	case flags.json:
		return printJSON(e, list...)
	case about == nil:
		return print()
	}
	printOffline(folded(e), about, e.Now())
	if err := print(); err != nil {
		return err
	}
	printAround(folded(e), about)
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
	denials, err := flags.client(e).Denials(cmd.Context())
	var about *control.Offline
	if err != nil {
		absent, err := flags.absent(err)
		if err != nil {
			return err
		}
		left, o, err := absent.Denials(e.Now())
		if err != nil {
			return err
		}
		denials, about = left, &o
	}
	return listed(e, flags, denials, about, func() error { return printDenials(e, denials) })
}

func printDenials(e *env, denials []control.Denial) error {
	if len(denials) == 0 {
		fmt.Fprintln(e.Stdout, "Nothing is denied.")
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

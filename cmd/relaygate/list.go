package main

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/nft"
)

func listCommand(e *env) *cobra.Command {
	var flags clientFlags
	var denied bool
	cmd := flags.add(&cobra.Command{
		Use:   "list",
		Short: "List who may relay now",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			if denied {
				return listDenials(e, cmd, &flags)
			}
			grants, err := flags.client(e).Grants(cmd.Context())
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(e, grants...)
			}
			s, err := flags.client(e).Status(cmd.Context())
			if err != nil {
				return err
			}
			if observes := s.Gate.Mode == nft.Observe.String() && len(s.Files) == 0; observes {
				fmt.Fprintln(e.Stdout, "Nothing is opened or closed: gate.mode is observe, and no file is written.")
			} else if len(grants) == 0 {
				fmt.Fprintln(e.Stdout, "Nobody may relay: there is no grant.")
			}
			if len(grants) == 0 {
				return nil
			}
			now := e.Now()
			w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ADDRESS\tSINCE\tRUNS OUT\tBY\tPROTOCOL\tOPEN SESSIONS\tUSERS")
			for i := range grants {
				g := &grants[i]
				var users []string
				for _, u := range g.Users {
					// A comma in a name would make two users of one.
					users = append(users, strings.ReplaceAll(authz.Quote(string(u)), ",", `\x2c`))
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", g.Name(), relative(g.Since.Time, now), relative(g.Expires.Time, now),
					g.Source, cmp.Or(g.Protocol, "-"), g.Sessions, cmp.Or(strings.Join(users, ", "), "-"))
			}
			return w.Flush()
		}),
	})
	cmd.Flags().BoolVar(&denied, "denied", false, "list what is denied instead")
	return cmd
}

// listDenials lists the denials that were made while running.
func listDenials(e *env, cmd *cobra.Command, flags *clientFlags) error {
	denials, err := flags.client(e).Denials(cmd.Context())
	if err != nil {
		return err
	}
	if flags.json {
		return printJSON(e, denials...)
	}
	if len(denials) == 0 {
		fmt.Fprintln(e.Stdout, "Nothing is denied.")
		return nil
	}
	now := e.Now()
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSINCE\tRUNS OUT\tBY\tNOTE")
	for i := range denials {
		d := &denials[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", authz.PrefixString(d.Prefix), relative(d.Since.Time, now),
			relative(d.Until.Time, now), authz.Quote(d.By), cmp.Or(authz.QuoteWords(d.Note), "-"))
	}
	return w.Flush()
}

package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/doctor"
)

func doctorCommand(e *env) *cobra.Command {
	var flags clientFlags
	cmd := flags.add(&cobra.Command{
		Use:   "doctor",
		Short: "Look at this host and tell what relaygate can do here",
		Long: `Look at the kernel, capabilities, cgroups, nftables, listeners and the daemon,
without changing anything, and say what is missing and what is lost by it. It
works without the daemon; without root it says what it cannot see.

The exit code is 1 if something is missing that the configuration needs.`,
		Args: takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			flags.config = chosenConfig(flags.config, defaultConfig) // its daemon is the one to ask
			cfg, err := loadConfig(flags.config)
			if err != nil {
				return err
			}
			findings := doctor.Examine(cmd.Context(), doctor.Patient{Config: cfg, File: flags.config, Status: flags.client(e).Status})
			if flags.json {
				err = printJSON(e, findings...)
			} else {
				err = printFindings(folded(e), findings)
			}
			if err != nil {
				return err
			}
			bad := 0
			for i := range findings {
				if findings[i].Bad() {
					bad++
				}
			}
			if bad > 0 {
				return &failure{err: errors.New("something needed is missing: " + authz.Count(bad, "finding")), code: exitFailed}
			}
			return nil
		}),
	})
	cmd.Flags().StringVar(&flags.config, "config", "", "the configuration `FILE` (default "+defaultConfig+", if it is there)")
	return cmd
}

func printFindings(e *env, list []doctor.Finding) error {
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	for i := range list {
		f := &list[i]
		word, paint := string(f.State), plain
		switch {
		case f.State == doctor.OK:
			paint = green
		case f.Bad():
			word, paint = "NEEDED", red
		case f.State != doctor.Unseen:
			paint = yellow
		}
		// A tabwriter counts colour codes as text: they are of one length.
		fmt.Fprintf(w, "%s\t%s\t%s\n", colour(e, paint, fmt.Sprintf("%-7s", word)), f.Subject, f.Words)
		if f.Then != "" && f.State != doctor.OK {
			fmt.Fprintf(w, "%s\t\t  → %s\n", colour(e, plain, fmt.Sprintf("%-7s", "")), f.Then)
		}
	}
	return w.Flush()
}

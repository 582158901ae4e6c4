package main

import "github.com/spf13/cobra"

func revokeCommand(e *env) *cobra.Command {
	var flags orderFlags
	cmd := flags.add(&cobra.Command{
		Use:   "revoke ADDRESS|PREFIX",
		Short: "Close an address now",
		Long: `Close an address, or all of a prefix, now: its grants end, and so do its SMTP
connections in progress. The next login opens it again; deny is what lasts.`,
		Args: takes("an ADDRESS or PREFIX", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			return flags.give(e, cmd, cmd.Name(), args[0])
		}),
	})
	flags.addKeep(cmd)
	return cmd
}

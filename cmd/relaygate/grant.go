package main

import "github.com/spf13/cobra"

func grantCommand(e *env) *cobra.Command {
	var flags orderFlags
	cmd := flags.add(&cobra.Command{
		Use:   "grant ADDRESS|PREFIX",
		Short: "Let an address relay for a while, by hand",
		Long: `Let an address or a prefix relay for a while, without a login.

The rules hold all the same: what is denied, never granted by the configuration,
or one of this host's own addresses is refused.`,
		Example: `  relaygate grant 192.0.2.7 --for 2h --note "new printer, ticket 4711"`,
		Args:    takes("an ADDRESS or PREFIX", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			return flags.give(e, cmd, cmd.Name(), args[0])
		}),
	})
	flags.addLasts(cmd, "how `LONG`, like 90s, 2h, 7d (default: as long as a login)")
	return cmd
}

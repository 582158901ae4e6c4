package main

import "github.com/spf13/cobra"

func denyCommand(e *env) *cobra.Command {
	var flags orderFlags
	cmd := flags.add(&cobra.Command{
		Use:   "deny ADDRESS|PREFIX",
		Short: "Close an address now and keep it closed",
		Long: `Close an address, or all of a prefix, now, and grant it nothing while the denial
lasts: not by a login, not by hand, not by an always rule. undeny ends it.`,
		Example: `  relaygate deny 203.0.113.0/24 --for 24h --note "sends spam"`,
		Args:    takes("an ADDRESS or PREFIX", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			return flags.give(e, cmd, cmd.Name(), args[0])
		}),
	})
	flags.addLasts(cmd, "how `LONG`, like 90s, 2h, 7d (default: for good)")
	flags.addKeep(cmd)
	return cmd
}

func undenyCommand(e *env) *cobra.Command {
	var flags orderFlags
	return flags.add(&cobra.Command{
		Use:   "undeny ADDRESS|PREFIX",
		Short: "End a denial",
		Long: `End the denial of exactly this address or prefix. Nothing is opened by that but
what an always rule names: the next login may be granted.`,
		Args: takes("an ADDRESS or PREFIX", 1, 1),
		RunE: verb(func(cmd *cobra.Command, args []string) error {
			return flags.give(e, cmd, cmd.Name(), args[0])
		}),
	})
}

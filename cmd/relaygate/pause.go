package main

import "github.com/spf13/cobra"

func pauseCommand(e *env) *cobra.Command {
	var flags orderFlags
	return flags.add(&cobra.Command{
		Use:   "pause",
		Short: "Close everybody but the always rules, until resume",
		Long: `Close everybody but the always rules, and grant nothing, until resume. The files
are emptied too. It lasts over a restart.`,
		Args: takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			return flags.give(e, cmd, cmd.Name(), "")
		}),
	})
}

func resumeCommand(e *env) *cobra.Command {
	var flags orderFlags
	return flags.add(&cobra.Command{
		Use:   "resume",
		Short: "End the pause",
		Long:  `End the pause. What was open before it stays closed until its next login.`,
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			return flags.give(e, cmd, cmd.Name(), "")
		}),
	})
}

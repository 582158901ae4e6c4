package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"relaygate/cmd/relaygate/internal/demo"
)

func demoCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show everything at work in throw-away network namespaces (needs root)",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the own program: %w", err)
			}
			return demo.Run(cmd.Context(), demo.Options{Exe: exe, Out: folded(e).Stdout})
		}),
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/daemon"
)

func runCommand(e *env) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch, grant and guard the gate, until SIGTERM",
		Args:  takes("", 0, 0),
		RunE: verb(func(cmd *cobra.Command, _ []string) error {
			path = chosenConfig(path, defaultConfig)
			cfg, err := loadConfig(path)
			if err != nil {
				known, _ := config.Salvage(path)
				return errors.Join(err, daemon.Abandon(known))
			}
			err = daemon.Run(cmd.Context(), daemon.Options{
				Config: cfg, Version: version, Log: e.Stderr, Journal: e.ErrJournal,
				Reload: func() (*config.Config, error) { return loadConfig(path) },
			})
			if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
				err = fmt.Errorf("%w (relaygate is started as root)", err)
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "the configuration `FILE` (default "+defaultConfig+", if it is there)")
	return cmd
}

const defaultConfig = "/etc/relaygate/relaygate.toml"

// chosenConfig is the file that was named, else the usual one, "" if it is not there.
// Once chosen it is read again at a reload, and must be there: the defaults would open
// what it closes.
func chosenConfig(path, usual string) string {
	if path == "" {
		if _, err := os.Stat(usual); !os.IsNotExist(err) {
			return usual
		}
	}
	return path
}

// loadConfig reads a file, or takes the defaults, which open and close nothing.
func loadConfig(path string) (*config.Config, error) {
	if path = chosenConfig(path, defaultConfig); path == "" {
		return config.Default()
	}
	return config.Load(path)
}

package main

import (
	"github.com/spf13/cobra"

	"relaygate/cmd/relaygate/internal/control"
)

// clientFlags are those of the verbs that ask the daemon.
type clientFlags struct {
	socket string
	json   bool
}

func (f *clientFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.socket, "socket", "", "the daemon's control socket at this `PATH` (default $RELAYGATE_SOCKET, else "+defaultSocket+")")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

const defaultSocket = "/run/relaygate/control.sock"

func (f *clientFlags) client(e *env) *control.Client {
	path := f.socket
	if path == "" {
		path = e.Getenv("RELAYGATE_SOCKET")
	}
	if path == "" {
		path = defaultSocket
	}
	return control.NewClient(path)
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/offline"
)

// clientFlags are those of the verbs that ask the daemon.
type clientFlags struct {
	socket string
	json   bool
	config string // see orOffline
}

func (f *clientFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.socket, "socket", "", "the daemon's control socket at this `PATH` (default $RELAYGATE_SOCKET, else that of the configuration)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// orOffline is add for a verb that has something to say without the daemon too.
func (f *clientFlags) orOffline(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.config, "config", "", "the configuration `FILE` that says where to look while no daemon answers (default "+defaultConfig+", if it is there)")
	return f.add(cmd)
}

// absent is the daemon in whose place to answer, where err says that it does not: it
// fails with err, or what else there is to say, where that cannot be done.
func (f *clientFlags) absent(err error) (*offline.Daemon, error) {
	var silence *control.SilentError
	if !errors.As(err, &silence) {
		return nil, err
	}
	d, unread := f.daemon()
	switch {
	case unread != nil:
		return nil, fmt.Errorf("%w; %w", err, unread)
	case d.Config.Socket == "":
		return nil, fmt.Errorf("%w; the configuration has mistakes: %w", err, d.Mistakes)
	case filepath.Clean(d.Config.Socket) != filepath.Clean(silence.Socket):
		return nil, fmt.Errorf("%w; the configuration has it at %s", err, d.Config.Socket)
	}
	d.Silence = silence
	return d, nil
}

// daemon is what the configuration says of the daemon that is asked, or what can be read
// of one with mistakes, for which it may not have started.
func (f *clientFlags) daemon() (*offline.Daemon, error) {
	d := &offline.Daemon{File: chosenConfig(f.config, defaultConfig)}
	var err error
	if d.Config, err = loadConfig(d.File); err == nil {
		return d, nil
	}
	known, ok := config.Salvage(d.File)
	if !ok { // not even that
		return nil, err
	}
	d.Config, d.Mistakes = known, err
	return d, nil
}

const defaultSocket = "/run/relaygate/control.sock"

func (f *clientFlags) client(e *env) *control.Client {
	path := cmp.Or(f.socket, e.Getenv("RELAYGATE_SOCKET"))
	if path == "" {
		if d, err := f.daemon(); err == nil { // else absent tells
			path = d.Config.Socket
		}
	}
	c := control.NewClient(cmp.Or(path, defaultSocket))
	if e.ErrTerminal {
		c.Late = func() {
			fmt.Fprintf(e.Stderr, "relaygate: there is no answer yet: waiting for %s at most\n", authz.Span(c.Within))
		}
	}
	return c
}

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
)

// trust is whose listeners are believed: those in the daemon's own network
// namespace, of an allowed owner, and of no program that only hands
// connections on.
type trust struct {
	own    *bpf.Netns
	tables *sockdiag.Tables
}

func openTrust(cfg *config.Config) (*trust, error) {
	own, err := bpf.OpenNetns(bpf.OwnNetns)
	if err != nil {
		return nil, fmt.Errorf("open the own network namespace: %w", err)
	}
	tables, err := sockdiag.New(sockdiag.Options{Ports: watchedPorts(cfg), Netns: []*bpf.Netns{own}, Owners: cfg.Owners})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the socket tables: %w", err), own.Close())
	}
	return &trust{own: own, tables: tables}, nil
}

func watchedPorts(cfg *config.Config) []uint16 {
	var ports []uint16
	for p := range cfg.Services {
		ports = append(ports, p)
	}
	return ports
}

func (t *trust) run(ctx context.Context, ready func()) error {
	ready()
	return t.tables.Run(ctx)
}

// confirm is asked before a login is believed. A connection with a cookie was
// announced by the kernel, and its listener checked then; any other must be in
// the socket tables of this host.
func (t *trust) confirm(c authz.Conn) (ok bool, reason string) {
	if c.Cookie != 0 {
		return true, ""
	}
	return t.tables.CheckConnection(c)
}

func (t *trust) close() error { return errors.Join(t.tables.Close(), t.own.Close()) }

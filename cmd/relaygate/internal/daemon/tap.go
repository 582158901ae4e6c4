//go:build linux

package daemon

import (
	"errors"
	"fmt"

	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
)

// ringTap is the kernel tap: programs on the root cgroup.
type ringTap struct {
	*capture.Ring
	programs *bpf.Tap
	netns    *bpf.Netns
}

func openTap(cfg *config.Config) (tap, error) {
	own, err := bpf.OpenNetns(bpf.OwnNetns)
	if err != nil {
		return nil, fmt.Errorf("open the own network namespace: %w", err)
	}
	var ports []uint16
	for p := range cfg.Services {
		ports = append(ports, p)
	}
	programs, err := bpf.Load(bpf.Options{Ports: ports, Netns: []*bpf.Netns{own}, Owners: cfg.Owners})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the kernel tap: %w", err), own.Close())
	}
	return &ringTap{Ring: capture.NewRing(programs), programs: programs, netns: own}, nil
}

func (t *ringTap) Done(cookie uint64) error { return t.programs.SetDone(cookie) }

func (t *ringTap) Close() error { return errors.Join(t.programs.Close(), t.netns.Close()) }

// Counts names what the tap did not see, for status.
func (t *ringTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	c, err := t.programs.Counters()
	if err != nil {
		return 0, nil, fmt.Errorf("read the tap's counters: %w", err)
	}
	return c.Packets, map[string]uint64{
		"tap: connections without room in the flow map":   c.FlowsFull,
		"tap: connections without room in the event ring": c.EventsFull,
		"tap: closes not told":                            c.ClosesLost,
		"tap: connections lost, ring full":                c.RingFull,
		"tap: connections lost, too much unanswered":      c.Unanswered,
		"tap: connections lost, too long before a login":  c.FlowFull,
		"tap: packets cut":                                c.Truncated,
	}, nil
}

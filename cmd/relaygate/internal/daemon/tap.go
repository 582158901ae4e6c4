//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
)

func openTap(cfg *config.Config, t *trust, log *slog.Logger) (tap, error) {
	if cfg.Tap == config.TapAFPacket {
		return openPacketTap(cfg)
	}
	ring, err := openRingTap(cfg, t)
	if err != nil && cfg.Tap == config.TapAuto && len(cfg.Interfaces) > 0 {
		log.Warn("the kernel tap cannot be had: tapping interfaces", "error", err)
		return openPacketTap(cfg)
	}
	return ring, err
}

// ringTap is the kernel tap: programs on the root cgroup.
type ringTap struct {
	*capture.Ring
	programs *bpf.Tap
	trust    *trust
}

func openRingTap(cfg *config.Config, t *trust) (tap, error) {
	programs, err := bpf.Load(bpf.Options{Ports: watchedPorts(cfg), Netns: t.netns, Owners: cfg.Owners})
	if err != nil {
		return nil, fmt.Errorf("load the kernel tap: %w", err)
	}
	return &ringTap{Ring: capture.NewRing(programs), programs: programs, trust: t}, nil
}

// Next asks about each new connection's listener, which the kernel believed by
// owner and namespace, whether it only hands connections on.
func (t *ringTap) Next(ev *capture.Event) error {
	if err := t.Ring.Next(ev); err != nil {
		return err
	}
	if ev.Kind != capture.Opened || !ev.Trusted {
		return nil
	}
	if ok, reason := t.trust.tables.Check(ev.Conn.Server, ev.Conn.Netns); !ok {
		ev.Trusted, ev.Reason = false, reason
		if err := t.programs.SetDone(ev.Conn.Cookie); err != nil {
			return fmt.Errorf("end the recording of a connection: %w", err)
		}
	}
	return nil
}

func (t *ringTap) Done(cookie uint64) error { return t.programs.SetDone(cookie) }

func (t *ringTap) Encrypted(cookie uint64) error { return t.programs.SetEncrypted(cookie) }

func (t *ringTap) Close() error { return t.programs.Close() }

func (t *ringTap) Where() (kind, where string) {
	return "cgroup", "sockets of this network namespace"
}

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

// packetTap is AF_PACKET on named interfaces. Its connections have no cookie:
// each login is confirmed by the socket tables.
type packetTap struct {
	*capture.AFPacket
	interfaces []string
}

func openPacketTap(cfg *config.Config) (tap, error) {
	a, err := capture.OpenAFPacket(cfg.Interfaces, false, capture.NewDecoder(capture.NewPortSet(watchedPorts(cfg)...)))
	if err != nil {
		return nil, fmt.Errorf("tap the interfaces: %w", err)
	}
	return &packetTap{AFPacket: a, interfaces: cfg.Interfaces}, nil
}

// Done has nothing to end: the kernel hands every packet of a watched port on.
func (t *packetTap) Done(uint64) error { return errors.ErrUnsupported }

// Encrypted never comes: TLS is not followed.
func (t *packetTap) Encrypted(uint64) error { return errors.ErrUnsupported }

func (t *packetTap) Where() (kind, where string) {
	return "afpacket", "interfaces " + strings.Join(t.interfaces, ", ")
}

// Counts names what the tap did not see, for status.
func (t *packetTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	s := t.Stats()
	return s.Packets, map[string]uint64{"tap: packets without room in the ring": s.Drops}, nil
}

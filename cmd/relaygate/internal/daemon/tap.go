//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
)

// openTap opens the configured tap or, with auto, the best that can be had.
func openTap(cfg *config.Config, t *trust, log *slog.Logger) (tap, error) {
	switch cfg.Tap {
	case config.TapCgroup:
		return openRingTap(cfg, t)
	case config.TapTCX:
		return openWireTap(cfg, t, log)
	case config.TapAFPacket:
		return openPacketTap(cfg, t)
	}
	var failed error
	if !cfg.Inside() { // a gateway forwards what it taps: no socket of its own has it
		ring, err := openRingTap(cfg, t)
		if err == nil || len(cfg.Interfaces) == 0 {
			return ring, err
		}
		failed = err
	}
	wire, err := openWireTap(cfg, t, log)
	if err == nil {
		warn(log, failed, wire)
		return wire, nil
	}
	failed = errors.Join(failed, err)
	packets, err := openPacketTap(cfg, t)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	warn(log, failed, packets)
	return packets, nil
}

// warn says why a tap is not the best one.
func warn(log *slog.Logger, err error, instead tap) {
	if err != nil {
		kind, where := instead.Where()
		log.Warn("a better tap cannot be had", "error", err, "tap", kind, "where", where)
	}
}

// ringTap is the kernel tap: programs on the root cgroup.
type ringTap struct {
	*capture.Ring
	programs *bpf.Tap
	trust    *trust
	recorded atomic.Uint64          // connections whose recording could not be ended
	again    atomic.Uint64          // how often they were attached again
	lost     atomic.Pointer[string] // why they are not attached; nil while they are
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
		if t.programs.SetDone(ev.Conn.Cookie) != nil {
			t.recorded.Add(1) // for nothing, but nothing is lost
		}
	}
	return nil
}

func (t *ringTap) Done(c authz.Conn) error { return t.programs.SetDone(c.Cookie) }

func (t *ringTap) Encrypted(c authz.Conn) error { return t.programs.SetEncrypted(c.Cookie) }

func (t *ringTap) Alive() ([]sockdiag.Session, error) { return t.trust.tables.Alive() }

func (t *ringTap) Close() error { return t.programs.Close() }

func (t *ringTap) Problems() []string {
	list := t.trust.problems()
	if words := t.lost.Load(); words != nil {
		list = append(list, *words)
	}
	return list
}

func (t *ringTap) Where() (kind, where string) {
	return "cgroup", "sockets of this network namespace"
}

// Counts names what the tap did not see, for status.
func (t *ringTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	c, err := t.programs.Counters()
	if err != nil {
		return 0, nil, fmt.Errorf("read the tap's counters: %w", err)
	}
	drops = ringDrops(&c)
	drops["tap: connections recorded that are not believed"] = t.recorded.Load()
	drops["tap: times that somebody detached it"] = t.again.Load()
	return c.Packets, drops, nil
}

// ringDrops are the losses of a tap that records in the kernel.
func ringDrops(c *bpf.Counters) map[string]uint64 {
	return map[string]uint64{
		"tap: connections without room in the flow map":   c.FlowsFull,
		"tap: connections without room in the event ring": c.EventsFull,
		"tap: closes not told":                            c.ClosesLost,
		"tap: connections lost, ring full":                c.RingFull,
		"tap: connections lost, too much unanswered":      c.Unanswered,
		"tap: connections lost, too long before a login":  c.FlowFull,
		"tap: packets cut":                                c.Truncated,
	}
}

// packetTap is AF_PACKET on named interfaces. Its connections have no cookie:
// each login is confirmed by the socket tables or, on a gateway, by where its
// server is.
type packetTap struct {
	*capture.AFPacket
	trust      *trust
	interfaces []string
	inside     bool
}

func openPacketTap(cfg *config.Config, t *trust) (tap, error) {
	if !cfg.Inside() {
		for _, name := range cfg.Interfaces {
			if err := noGuests(name); err != nil {
				return nil, err
			}
		}
	}
	decoder := capture.NewDecoder(capture.NewPortSet(watchedPorts(cfg)...))
	a, err := capture.OpenAFPacket(cfg.Interfaces, cfg.Inside(), decoder)
	if err != nil {
		return nil, fmt.Errorf("tap the interfaces: %w", err)
	}
	t.unsure = !cfg.Inside()
	return &packetTap{AFPacket: a, trust: t, interfaces: cfg.Interfaces, inside: cfg.Inside()}, nil
}

// Crowded is not known: what is there is read in blocks.
func (t *packetTap) Crowded() bool { return false }

// Done has nothing to end: the kernel hands every packet of a watched port on.
func (t *packetTap) Done(authz.Conn) error { return errors.ErrUnsupported }

// Encrypted never comes: TLS is not followed.
func (t *packetTap) Encrypted(authz.Conn) error { return errors.ErrUnsupported }

// Alive is unsupported on a gateway: no table says whether a client is still
// there, and packets of strangers do not either.
func (t *packetTap) Alive() ([]sockdiag.Session, error) {
	if t.inside {
		return nil, errors.ErrUnsupported
	}
	return t.trust.tables.Alive()
}

func (t *packetTap) Problems() []string { return t.trust.problems() }

func (t *packetTap) Where() (kind, where string) {
	return "afpacket", interfaceWords(t.interfaces, t.inside)
}

// interfaceWords names tapped interfaces.
func interfaceWords(names []string, inside bool) string {
	words := "interfaces "
	if inside {
		words = "inside " + words
	}
	return words + strings.Join(names, ", ")
}

// Counts names what the tap did not see, for status.
func (t *packetTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	s := t.Stats()
	return s.Packets, map[string]uint64{"tap: packets without room in the ring": s.Drops}, nil
}

// Package livetap sees the connections of mail clients while they are made: through
// programs on the root cgroup (ringTap) or on interfaces (wireTap), or a packet socket
// (packetTap), and through the TLS libraries of mail servers (TLS). Trust decides whose
// listeners are believed.
package livetap

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// Tap is a live source of events.
type Tap interface {
	Next(*capture.Event) error
	// Crowded says that there is so much to be read that events had better be
	// handled together, and that Next would not wait now.
	Crowded() bool
	// SetDeadline bounds Next, which then returns os.ErrDeadlineExceeded, as it
	// does after Wake.
	SetDeadline(time.Time)
	Wake()
	// Steer does what the engine wants of a connection.
	Steer(engine.Steering) error
	// Counts are the tap's own counters by name, of what it could not see.
	Counts() (packets uint64, drops map[string]uint64, err error)
	// Where says in words what is tapped, Problems what of it is not.
	Where() (kind, where string)
	Problems() []string
	// Alive lists the sessions that are open. It is errors.ErrUnsupported where
	// they cannot be followed, and grants run from their login.
	Alive() ([]sockdiag.Session, error)
	// SetServers changes where the mail servers behind this host are, a gateway.
	SetServers([]netip.Prefix) error
	// Keep keeps the tap where it was put until ctx is done: interfaces come and go,
	// and others detach programs. lost is told of connections that no event will tell
	// the end of; on an error Keep ends.
	Keep(ctx context.Context, lost func(cookies []uint64) error)
	Close() error
}

// Open opens the configured tap or, with auto, the best that can be had.
func Open(cfg *config.Config, t *Trust, log *slog.Logger, hub *control.Hub) (Tap, error) {
	switch cfg.Tap {
	case config.TapCgroup:
		return openRingTap(cfg, t, log, hub)
	case config.TapTCX:
		return openWireTap(cfg, t, log, hub)
	case config.TapAFPacket:
		return openPacketTap(cfg, t, log, hub)
	}
	var failed error
	if !cfg.Inside() { // a gateway forwards what it taps: no socket of its own has it
		ring, err := openRingTap(cfg, t, log, hub)
		if err == nil || len(cfg.Interfaces) == 0 {
			return ring, err
		}
		failed = err
	}
	wire, err := openWireTap(cfg, t, log, hub)
	if err == nil {
		warn(log, failed, wire)
		return wire, nil
	}
	failed = errors.Join(failed, err)
	packets, err := openPacketTap(cfg, t, log, hub)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	warn(log, failed, packets)
	return packets, nil
}

// warn says why a tap is not the best one.
func warn(log *slog.Logger, err error, instead Tap) {
	if err != nil {
		kind, where := instead.Where()
		log.Warn("a better tap cannot be had", "error", err, "tap", kind, "where", where)
	}
}

// lentUnseen is said of a tap that does not see what package bpf's HaveLent is about.
const lentUnseen = ", blind to memory that clients in this kernel can still change"

// interfaceWords names tapped interfaces.
func interfaceWords(names []string, inside bool) string {
	words := "interfaces "
	if inside {
		words = "inside " + words
	}
	return words + strings.Join(names, ", ")
}

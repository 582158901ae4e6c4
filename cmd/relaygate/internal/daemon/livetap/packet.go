//go:build linux

package livetap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
)

// packetTap is AF_PACKET on named interfaces. Its connections have no cookie:
// each login is confirmed by the socket tables or, on a gateway, by where its
// server is.
type packetTap struct {
	*capture.AFPacket
	trust      *Trust
	interfaces []string
	inside     bool
}

func openPacketTap(cfg *config.Config, t *Trust) (Tap, error) {
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

func (t *packetTap) SetServers(servers []netip.Prefix) error {
	t.trust.inside.Store(&servers)
	return nil
}

func (t *packetTap) Problems() []string { return t.trust.problems() }

func (t *packetTap) Where() (kind, where string) {
	return "afpacket", interfaceWords(t.interfaces, t.inside)
}

// Counts names what the tap did not see, for status.
func (t *packetTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	s := t.Stats()
	return s.Packets, map[string]uint64{"tap: packets without room in the ring": s.Drops}, nil
}

// Keep has nothing to do: an interface that is gone ends the reading.
func (t *packetTap) Keep(context.Context, func([]uint64) error) {}

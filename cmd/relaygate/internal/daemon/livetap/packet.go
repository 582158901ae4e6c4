package livetap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
)

// packetTap is AF_PACKET with named interfaces. Its connections have no cookie:
// each login is confirmed by the socket tables or, on a gateway, by where its
// server is.
type packetTap struct {
	*capture.AFPacket
	trust  *Trust
	names  []string
	inside bool
	log    *slog.Logger
	hub    *control.Hub

	at map[string]int // interface indexes by name, of Keep

	mu  sync.Mutex       // guards not
	not map[string]error // why the other names do not count
}

func openPacketTap(cfg *config.Config, t *Trust, log *slog.Logger, hub *control.Hub) (Tap, error) {
	p := &packetTap{trust: t, names: cfg.Interfaces, inside: cfg.Inside(), log: log, hub: hub}
	p.at, p.not = p.find()
	for name, err := range p.not {
		if !errors.As(err, new(netlink.LinkNotFoundError)) || len(p.at) == 0 {
			return nil, fmt.Errorf("tap the interfaces: %w", err)
		}
		log.Warn("interface " + name + isGone)
	}
	decoder := capture.NewDecoder(capture.NewPortSet(watchedPorts(cfg)...))
	a, err := capture.OpenAFPacket(slices.Collect(maps.Values(p.at)), p.inside, decoder)
	if err != nil {
		return nil, fmt.Errorf("tap the interfaces: %w", err)
	}
	p.AFPacket, t.unsure = a, !p.inside
	if err := t.onInterfaces(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// find looks which interfaces have the names now, and where only this host speaks.
func (t *packetTap) find() (at map[string]int, not map[string]error) {
	at, not = make(map[string]int), make(map[string]error)
	for _, name := range t.names {
		l, err := netlink.LinkByName(name)
		if err != nil {
			not[name] = fmt.Errorf("interface %s: %w", name, err)
			continue
		}
		if !t.inside {
			if err := noGuests(name); err != nil {
				not[name] = err
				continue
			}
		}
		if !hostinfo.Plain(l) {
			t.trust.stacked.Store(true)
		}
		at[name] = l.Attrs().Index
	}
	return at, not
}

// Keep follows the interfaces: one that is made anew has another index, and one may come
// to be a part of another.
func (t *packetTap) Keep(ctx context.Context, _ func([]uint64) error) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.follow()
		}
	}
}

func (t *packetTap) follow() {
	was := t.at
	at, not := t.find()
	t.mu.Lock()
	t.not = not
	t.mu.Unlock()
	if maps.Equal(at, was) {
		return
	}
	if err := t.SetInterfaces(slices.Collect(maps.Values(at))); err != nil {
		t.log.Warn("the interfaces that are tapped cannot be changed", "error", err)
		return
	}
	t.at = at
	for _, name := range t.names {
		words := " is back: it is tapped again"
		switch before, now := was[name], at[name]; {
		case before == now:
			continue
		case now == 0:
			words = problem(name, not[name])
		default:
			words = "interface " + name + words
		}
		t.log.Warn(words)
		t.hub.Tell(time.Now(), "coverage", words)
	}
}

// problem says why an interface does not count.
func problem(name string, err error) string {
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return "interface " + name + isGone
	}
	return "what leaves by an interface is not believed: " + err.Error()
}

// Crowded is not known: what is there is read in blocks.
func (t *packetTap) Crowded() bool { return false }

// Steer has nothing to end: the kernel hands every packet of a watched port on.
func (t *packetTap) Steer(engine.Steering) error { return errors.ErrUnsupported }

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

// Problems names the interfaces that are gone, and what is not believed.
func (t *packetTap) Problems() []string {
	problems := t.trust.problems()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.not)) {
		problems = append(problems, problem(name, t.not[name]))
	}
	return problems
}

func (t *packetTap) Where() (kind, where string) {
	return "afpacket", interfaceWords(t.names, t.inside) + lentUnseen
}

// Counts names what the tap did not see, for status.
func (t *packetTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	s := t.Stats()
	return s.Packets, map[string]uint64{"tap: packets without room in the ring": s.Drops}, nil
}

package livetap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
)

// How connections end that the packets do not end. An IMAP server may be silent
// for as long as its client idles, which is 29 minutes (RFC 2177); one that
// waits for the rest of a close gives up within two.
const (
	wireIdle   = 40 * time.Minute
	wireEnding = 2 * time.Minute
	// keepEvery is how often it is looked whether a tap is where it was put, and
	// wireSweep how often connections that are silent are closed.
	keepEvery = time.Second
	wireSweep = 15 * time.Second
)

// wireTap is the tap on named interfaces by tcx: inside a gateway, or on a host
// without cgroups. There its connections are confirmed by the socket tables.
type wireTap struct {
	*capture.Ring
	programs *bpf.Wire
	trust    *Trust
	inside   bool
	names    []string
	log      *slog.Logger
	hub      *control.Hub

	mu       sync.Mutex     // guards attached
	attached map[string]int // interface indexes by name; absent are those that are gone

	others others // of a host: where clients' segments can come in, too
}

func openWireTap(cfg *config.Config, t *Trust, log *slog.Logger, hub *control.Hub) (Tap, error) {
	servers := cfg.Gate.Servers
	if !cfg.Inside() { // whose they are the socket tables say
		servers = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	programs, err := bpf.LoadWire(bpf.WireOptions{
		Ports: watchedPorts(cfg), Inside: cfg.Inside(), Servers: servers,
	})
	if err != nil {
		return nil, fmt.Errorf("load the tap on interfaces: %w", err)
	}
	w := &wireTap{
		Ring: capture.NewWireRing(programs, cfg.Inside()), programs: programs, trust: t,
		inside: cfg.Inside(), names: cfg.Interfaces, log: log, hub: hub, attached: make(map[string]int), others: others{tapped: make(map[int]bool)},
	}
	if err := w.attachAll(); err != nil {
		return nil, errors.Join(fmt.Errorf("tap the interfaces: %w", err), w.Close())
	}
	if err := w.seeOthers(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if err := t.onInterfaces(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if !w.inside {
		t.tap = w
	}
	return w, nil
}

// attachAll taps the interfaces that are there: one that is to come, as of a tunnel, keeps
// nobody out who is behind another. With none of them, their names are a mistake.
func (t *wireTap) attachAll() error {
	var absent error
	for _, name := range t.names {
		err := t.attach(name)
		switch {
		case errors.As(err, new(netlink.LinkNotFoundError)):
			absent = errors.Join(absent, err)
			t.log.Warn("interface " + name + isGone)
		case err != nil:
			return err
		}
	}
	if len(t.attached) == 0 {
		return absent
	}
	return nil
}

// attach taps the interface that has the name now.
func (t *wireTap) attach(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if of := hostinfo.PartOf(l); of != "" {
		t.log.Warn("the interface is a part of another, which should be tapped instead", "interface", name, "of", of)
	}
	if !hostinfo.Plain(l) {
		t.trust.stacked.Store(true)
	}
	index := l.Attrs().Index
	if err := t.programs.Attach(index); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attached[name] = index
	return nil
}

// index is that of an interface which is tapped.
func (t *wireTap) index(name string) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	index, ok := t.attached[name]
	return index, ok
}

// Keep tells the programs the time, closes what is silent, and follows the
// interfaces: one that is made anew has another index, and no programs.
func (t *wireTap) Keep(ctx context.Context, _ func([]uint64) error) {
	tick, sweep := time.NewTicker(keepEvery), time.NewTicker(wireSweep)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			err = t.programs.Tick(now)
			for _, name := range t.names {
				t.follow(name)
			}
			t.keepOthers()
		case <-sweep.C:
			err = t.programs.Sweep(wireIdle, wireEnding)
		}
		if err != nil {
			t.log.Warn("connections that are silent may stay", "error", err)
		}
	}
}

// isGone is what is said of an interface that was tapped.
const isGone = " is gone: what passes there is not seen"

// follow says that an interface is gone, or not tapped any more, and taps one that is
// there.
func (t *wireTap) follow(name string) {
	l, err := netlink.LinkByName(name)
	gone := errors.As(err, new(netlink.LinkNotFoundError))
	if err != nil && !gone {
		t.log.Warn("an interface cannot be looked at", "interface", name, "error", err)
		return
	}
	say := func(words string, err error) {
		text := "interface " + name + words
		if err != nil {
			text += ": " + err.Error()
		}
		t.log.Warn(text)
		t.hub.Tell(time.Now(), "coverage", text)
	}
	if was, tapped := t.index(name); tapped {
		lost := isGone
		if !gone && l.Attrs().Index == was {
			if on, err := t.programs.Attached(was); err != nil || on {
				return
			}
			lost = " was not seen: somebody had detached the tap, or put a program ahead of it"
		}
		t.mu.Lock()
		delete(t.attached, name)
		t.mu.Unlock()
		say(lost, t.programs.Detach(was))
	}
	if gone {
		return
	}
	if err := t.attach(name); err != nil {
		say(" is back and cannot be tapped", err)
		return
	}
	say(" is back: it is tapped again", nil)
	if !t.inside {
		t.others.Lock()
		defer t.others.Unlock()
		t.look(true, nil)
	}
}

func (t *wireTap) Steer(s engine.Steering) error {
	switch c := s.Conn; s.Course {
	case engine.Done:
		return t.programs.SetDone(c.Client, c.Server, c.Cookie)
	case engine.Forget:
		return t.programs.Forget(c.Client, c.Server, c.Cookie)
	default: // TLS is not followed
		return errors.ErrUnsupported
	}
}

// Alive lists, on a gateway, the connections that the programs follow. A host
// asks its own socket tables.
func (t *wireTap) Alive() ([]sockdiag.Session, error) {
	if !t.inside {
		return t.trust.tables.Alive()
	}
	open, err := t.programs.Sessions()
	if err != nil {
		return nil, err
	}
	all := make([]sockdiag.Session, len(open))
	for i, s := range open {
		all[i] = sockdiag.Session{Cookie: s.Cookie, Local: s.Server, Remote: s.Client, Silent: s.Silent}
	}
	return all, nil
}

func (t *wireTap) SetServers(servers []netip.Prefix) error {
	if err := t.programs.SetServers(servers); err != nil {
		return err
	}
	t.trust.inside.Store(&servers)
	return nil
}

func (t *wireTap) Close() error {
	err := t.programs.Close()
	if t.others.links != nil {
		err = errors.Join(err, t.others.links.close())
	}
	return err
}

func (t *wireTap) Where() (kind, where string) { return "tcx", interfaceWords(t.names, t.inside) }

// Problems names the interfaces that are gone, and what is not believed.
func (t *wireTap) Problems() (problems []string) {
	problems = t.trust.problems()
	for _, name := range t.names {
		if _, ok := t.index(name); !ok {
			problems = append(problems, "interface "+name+isGone)
		}
	}
	return problems
}

// Counts names what the tap did not see, for status.
func (t *wireTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	c, err := t.programs.Counters()
	if err != nil {
		return 0, nil, err
	}
	drops = ringDrops(&c)
	maps.Copy(drops, map[string]uint64{
		"tap: handshakes displaced by others":                              c.Displaced,
		"tap: segments with a server's address from elsewhere":             c.Forged,
		"tap: packets that may be TCP and show no ports (client in doubt)": c.Unreadable,
		"tap: frames with a VLAN tag behind another":                       c.Tagged,
		"tap: connections given up for silence":                            c.Idle,
		"tap: connections not followed, data in the handshake":             c.FastOpen,
		"tap: connections not followed, Multipath TCP":                     c.Multipath,
		"tap: connections not followed, more than one handshake answered":  c.TwoAnswers,
	})
	return c.Packets, drops, nil
}

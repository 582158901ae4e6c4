package livetap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// ringTap is the kernel tap: programs on the root cgroup.
type ringTap struct {
	*capture.Ring
	programs *bpf.Tap
	trust    *Trust
	log      *slog.Logger
	hub      *control.Hub
	where    string
	again    atomic.Uint64          // how often they were attached again
	lost     atomic.Pointer[string] // why they are not attached; nil while they are
	missing  map[uint64]bool        // what sweep did not find the last time; Keep's
	over     atomic.Uint64          // how many it ended
}

func openRingTap(cfg *config.Config, t *Trust, log *slog.Logger, hub *control.Hub) (Tap, error) {
	programs, err := bpf.Load(bpf.Options{Ports: watchedPorts(cfg), Netns: t.netns, Owners: cfg.Owners})
	if err != nil {
		return nil, fmt.Errorf("load the kernel tap: %w", err)
	}
	where := strings.Join(append([]string{"sockets of this network namespace"}, cfg.TrustedNetns...), ", of ")
	if bpf.HaveLent() != nil {
		where += lentUnseen
	}
	return &ringTap{Ring: capture.NewRing(programs), programs: programs, trust: t, log: log, hub: hub, where: where}, nil
}

// Next asks about each new connection's listener, which the kernel believed by
// owner and namespace, whether it only hands connections on. Where that is not decided
// yet, Confirm asks again.
func (t *ringTap) Next(ev *capture.Event) error {
	if err := t.Ring.Next(ev); err != nil {
		return err
	}
	if ev.Kind != capture.Opened || !ev.Trusted {
		return nil
	}
	belief, reason := t.trust.tables.CheckListener(ev.Conn.Server, ev.Conn.Netns, ev.Listener)
	if belief == authz.Disbelieved {
		ev.Trusted, ev.Reason = false, reason
	}
	return nil
}

func (t *ringTap) Steer(s engine.Steering) error {
	switch s.Course {
	case engine.Plaintext:
		return t.programs.SetEncrypted(s.Conn.Cookie)
	case engine.Forget:
		return t.programs.Forget(s.Conn.Cookie)
	default:
		return t.programs.SetDone(s.Conn.Cookie)
	}
}

func (t *ringTap) Alive() ([]sockdiag.Session, error) { return t.trust.tables.Alive() }

// SetServers is for gateways, whose servers have no sockets here.
func (t *ringTap) SetServers([]netip.Prefix) error { return errors.ErrUnsupported }

func (t *ringTap) Close() error { return t.programs.Close() }

func (t *ringTap) Problems() []string {
	list := t.trust.problems()
	if words := t.lost.Load(); words != nil {
		list = append(list, *words)
	}
	return list
}

func (t *ringTap) Where() (kind, where string) {
	return "cgroup", t.where
}

// Counts names what the tap did not see, for status.
func (t *ringTap) Counts() (packets uint64, drops map[string]uint64, err error) {
	c, err := t.programs.Counters()
	if err != nil {
		return 0, nil, err
	}
	drops = ringDrops(&c)
	drops["tap: times that somebody detached it"] = t.again.Load()
	drops["tap: closes that were not told"] = t.over.Load()
	return c.Packets, drops, nil
}

// ringDrops are the losses of a tap that records in the kernel.
func ringDrops(c *bpf.Counters) map[string]uint64 {
	return map[string]uint64{
		"tap: connections without room in the flow map":   c.FlowsFull,
		"tap: connections without room in the event ring": c.EventsFull,
		"tap: closes that were told late":                 c.ClosesLate,
		"tap: connections lost, ring full":                c.RingFull,
		"tap: connections lost, too much unanswered":      c.Unanswered,
		"tap: connections lost, too long before a login":  c.FlowFull,
		"tap: packets cut":                                c.Truncated,
	}
}

// ringSweep is the pace of sweep.
const ringSweep = time.Minute

// Keep attaches the programs again where somebody else detaches them.
func (t *ringTap) Keep(ctx context.Context, lost func([]uint64) error) {
	tick, sweep := time.NewTicker(keepEvery), time.NewTicker(ringSweep)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if t.reattach(lost) != nil {
				return
			}
		case <-sweep.C:
			if t.sweep(lost) != nil {
				return
			}
		}
	}
}

// sweep tells lost of connections that are over without a word of the kernel's, which
// would fill the tables in time: it only says so while the socket asks for that, and
// another sockops program may set for what it asks without regard to others. The socket
// tables miss them twice: they change while they are listed. The error is lost's.
func (t *ringTap) sweep(lost func([]uint64) error) error {
	known, err := t.programs.Known()
	unended, failed := t.trust.tables.Unended() // behind it: what was opened meanwhile is not missed
	if err := errors.Join(err, failed); err != nil {
		t.log.Warn("connections that are over may stay", "error", err)
		return nil
	}
	over := t.overdue(known, unended)
	if len(over) == 0 {
		return nil
	}
	t.log.Warn("the kernel did not tell that connections ended: another sockops program may have turned that off", "connections", len(over))
	t.over.Add(uint64(len(over)))
	for _, cookie := range over {
		if err := t.programs.End(cookie); err != nil {
			t.log.Warn("a connection that is over stays", "error", err)
		}
	}
	return lost(over)
}

// overdue are those that are missing for the second time.
func (t *ringTap) overdue(known []uint64, unended map[uint64]bool) (over []uint64) {
	missing := make(map[uint64]bool)
	for _, cookie := range known {
		switch {
		case unended[cookie]:
		case t.missing[cookie]:
			over = append(over, cookie)
		default:
			missing[cookie] = true
		}
	}
	t.missing = missing
	return over
}

// reattach looks whether the programs are where they were put. Of the connections that
// were followed nobody knows how they went on: lost is told of them.
func (t *ringTap) reattach(lost func([]uint64) error) error {
	on, err := t.programs.Attached()
	was, words := t.lost.Load(), "whether the tap is attached cannot be seen: "
	if on && was == nil {
		return nil
	}
	var cookies []uint64
	if !on && err == nil {
		if was == nil {
			t.again.Add(1)
		}
		words = "the tap is not attached, which is tried again, and sees nothing: "
		cookies, err = t.programs.Reattach()
	}
	if err := lost(cookies); err != nil {
		return err
	}
	switch {
	case on:
		words = "the tap is attached, which could not be seen for a while"
		t.lost.Store(nil)
	case err == nil:
		words = "somebody had detached the tap: it is attached again"
		t.lost.Store(nil)
	default:
		words += err.Error()
		t.lost.Store(&words)
	}
	if was != nil && *was == words {
		return nil // said already
	}
	t.log.Error(words, "connections", len(cookies))
	t.hub.Tell(time.Now(), "coverage", words+" ("+authz.Count(len(cookies), "connection")+")")
	return nil
}

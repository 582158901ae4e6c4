package daemon

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"relaygate/authz/grant"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/engine"
)

// backlog is a tap that holds events which nobody read yet.
type backlog struct {
	livetap.Tap
	events []capture.Event
	woken  chan struct{}
}

func (b *backlog) Next(ev *capture.Event) error {
	if len(b.events) == 0 {
		return os.ErrDeadlineExceeded
	}
	*ev, b.events = b.events[0], b.events[1:]
	return nil
}

func (b *backlog) SetDeadline(time.Time)       {}
func (b *backlog) Wake()                       { close(b.woken) }
func (b *backlog) Crowded() bool               { return len(b.events) > 0 }
func (b *backlog) Steer(engine.Steering) error { return nil }

func (b *backlog) Counts() (packets uint64, drops map[string]uint64, err error) { return 0, nil, nil }

// TestForgetBehindBacklog: of a connection no event will tell the end, as of one that was
// followed when the tap was detached, while that it began still stands in the ring. It is
// not followed for ever then.
func TestForgetBehindBacklog(t *testing.T) {
	start := time.Now()
	o := newTestOwner(t, start)
	cfg, err := config.Parse("test", nil)
	must(t, err)
	o.engine = engine.New(engine.Config{Services: cfg.Services, Grants: grant.Config{Lifetime: testLifetime}})
	o.asked, o.tls = make(chan question, 1), &livetap.TLS{}
	tap := &backlog{
		events: []capture.Event{{Kind: capture.Opened, Time: start, Conn: testConn, Trusted: true}},
		woken:  make(chan struct{}),
	}
	o.tap = tap
	done := make(chan error)
	go func() { done <- o.forget(t.Context(), []uint64{testConn.Cookie}) }()
	<-tap.woken
	o.answer(start)
	must(t, <-done)
	for more := true; more; {
		more, err = o.next(&capture.Event{})
		must(t, err)
	}
	if flows := o.engine.Flows(); flows.Opened != 1 || flows.Open != 0 {
		t.Errorf("%d of %d connections are followed, which has ended", flows.Open, flows.Opened)
	}
}

// TestFullTableIsTold: status says so while no connection more can be watched.
func TestFullTableIsTold(t *testing.T) {
	cfg, err := config.Parse("test", nil)
	must(t, err)
	o := newTestOwner(t, now)
	o.engine = engine.New(engine.Config{Services: cfg.Services})
	o.tap, o.tls = &backlog{}, &livetap.TLS{}
	told := func() []string {
		s := control.Status{Drops: make(map[string]uint64)}
		o.status(now, &s)
		return s.Problems
	}
	if problems := told(); len(problems) > 0 {
		t.Errorf("there is room, and it says %q", problems)
	}
	c := testConn
	for !o.engine.Flows().Full {
		c.Client, c.Cookie = netip.AddrPortFrom(c.Client.Addr().Next(), 40000), c.Cookie+1
		o.event(&capture.Event{Kind: capture.Opened, Time: now, Conn: c, Trusted: true})
	}
	if problems := told(); len(problems) != 1 || !strings.Contains(problems[0], "65536 connections are open") {
		t.Errorf("it is full, and it says %q", problems)
	}
	o.event(&capture.Event{Kind: capture.Closed, Time: now, Conn: c})
	if problems := told(); len(problems) > 0 {
		t.Errorf("there is room again, and it says %q", problems)
	}
}

package daemon

import (
	"os"
	"testing"
	"time"

	"relaygate/authz/grant"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
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

// TestForgetBehindBacklog: a connection whose end found no room in the ring is known to
// have ended while that it began still stands there. It is not followed for ever then.
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

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"time"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/control"
)

// runTap is the task that keeps the tap attached: to interfaces that come and go, and
// where somebody else detaches it.
func (d *daemon) runTap(ctx context.Context, ready func()) error {
	ready()
	switch tap := d.tap.(type) {
	case *wireTap:
		tap.run(ctx, d.hub)
	case *ringTap:
		tick := time.NewTicker(wireTick)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				d.reattach(ctx, tap)
			}
		}
	}
	return nil
}

// reattach looks whether the programs are where they were put. Of the connections that
// were followed nobody knows how they went on: they are as if they had closed.
func (d *daemon) reattach(ctx context.Context, t *ringTap) {
	on, err := t.programs.Attached()
	if on {
		return
	}
	was, words := t.lost.Load(), "whether the tap is attached cannot be seen: "
	var cookies []uint64
	if err == nil {
		if was == nil {
			t.again.Add(1)
		}
		words = "the tap is not attached, which is tried again, and sees nothing: "
		cookies, err = t.programs.Reattach()
	}
	if asked := d.owner.ask(ctx, func(now time.Time) { d.owner.forget(now, cookies) }); asked != nil {
		return // the daemon ends
	}
	if err == nil {
		words = "somebody had detached the tap: it is attached again"
		t.lost.Store(nil)
	} else {
		words += err.Error()
		t.lost.Store(&words)
	}
	if was != nil && *was == words {
		return // said already
	}
	d.log.Error(words, "connections", len(cookies))
	now := time.Now()
	d.hub.Publish(now, control.Event{Event: "coverage", Time: control.Time{Time: now}, Reason: fmt.Sprintf("%s (%d connections)", words, len(cookies))})
}

// forget ends connections of which no event will come.
func (o *owner) forget(now time.Time, cookies []uint64) {
	for _, cookie := range cookies {
		o.event(&capture.Event{Kind: capture.Closed, Time: now, Conn: authz.Conn{Cookie: cookie}})
	}
}

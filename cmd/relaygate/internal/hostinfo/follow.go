package hostinfo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"relaygate/authz"
)

// retryDelay is the pause before a broken subscription is made anew.
const retryDelay = 200 * time.Millisecond

// Follow publishes the host's facts once at the start and after each change,
// until ctx is done. A subscription that breaks (ENOBUFS after a burst, for
// instance) is made anew and everything read again; report gets its error. The
// first reading must succeed.
func Follow(ctx context.Context, publish func(authz.Host), report func(error)) error {
	for known := false; ctx.Err() == nil; {
		err := followOnce(ctx, func(h authz.Host) { publish(h); known = true })
		switch {
		case ctx.Err() != nil:
			return nil
		case !known:
			return fmt.Errorf("read this host's addresses: %w", err)
		}
		report(err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	return nil
}

// followOnce subscribes, reads, and reads again at each change. Subscribing
// comes before reading, so that no change falls between the two.
func followOnce(ctx context.Context, publish func(authz.Host)) error {
	done := make(chan struct{})
	defer close(done)
	s, err := subscribe(done)
	if err != nil {
		return err
	}
	defer s.discard()
	for {
		h, err := Read()
		if err != nil {
			return err
		}
		publish(h)
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
}

// subscription is the three kinds of netlink events that matter.
type subscription struct {
	addrs  chan netlink.AddrUpdate
	links  chan netlink.LinkUpdate
	routes chan netlink.RouteUpdate
	errs   chan error
}

func subscribe(done chan struct{}) (*subscription, error) {
	s := &subscription{
		addrs:  make(chan netlink.AddrUpdate, 64),
		links:  make(chan netlink.LinkUpdate, 64),
		routes: make(chan netlink.RouteUpdate, 64),
		errs:   make(chan error, 3),
	}
	failed := func(err error) {
		select {
		case s.errs <- err:
		default: // one is enough to start anew
		}
	}
	err := netlink.AddrSubscribeWithOptions(s.addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: failed})
	if err != nil {
		return nil, fmt.Errorf("subscribe to address changes: %w", err)
	}
	err = netlink.LinkSubscribeWithOptions(s.links, done, netlink.LinkSubscribeOptions{ErrorCallback: failed})
	if err != nil {
		return nil, fmt.Errorf("subscribe to interface changes: %w", err)
	}
	err = netlink.RouteSubscribeWithOptions(s.routes, done, netlink.RouteSubscribeOptions{ErrorCallback: failed})
	if err != nil {
		return nil, fmt.Errorf("subscribe to route changes: %w", err)
	}
	return s, nil
}

// discard lets the library's goroutines end, which may wait for a reader of what was
// left: after a burst they do.
func (s *subscription) discard() {
	go func() {
		for range s.addrs {
		}
		for range s.links {
		}
		for range s.routes {
		}
	}()
}

// wait returns nil when something relevant has changed. Events that are already
// queued are taken together.
func (s *subscription) wait(ctx context.Context) error {
	for relevant := false; ; {
		if relevant && len(s.addrs)+len(s.links)+len(s.routes) == 0 {
			return nil
		}
		var ok bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.errs:
			return fmt.Errorf("follow this host's addresses: %w", err)
		case _, ok = <-s.addrs:
			relevant = true
		case _, ok = <-s.links:
			relevant = true
		case r, open := <-s.routes:
			// What has a next hop matters by default routes alone: a router's full
			// table may change all day.
			ok = open
			relevant = relevant || isDefault(&r.Route) || onLink(&r.Route)
		}
		if !ok {
			return errors.New("follow this host's addresses: the subscription ended")
		}
	}
}

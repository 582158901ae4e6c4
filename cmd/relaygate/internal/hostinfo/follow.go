package hostinfo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

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
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
	if err != nil {
		return fmt.Errorf("subscribe to changes of the network: %w", err)
	}
	defer func() { _ = c.Close() }() // which ends listen
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() { ended <- listen(c, changed) }()
	for {
		h, err := Read()
		if err != nil {
			return err
		}
		publish(h)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("follow this host's addresses: %w", err)
		case <-changed:
		}
	}
}

// listen tells of what is relevant until the socket fails. Changes that come while one
// is being read are told together.
func listen(c *netlink.Conn, changed chan<- struct{}) error {
	for {
		messages, err := c.Receive()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(messages, relevant) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// relevant says whether a message can be of what Read reads: of routes with a next hop the
// default ones alone are. A router's full table may change all day.
func relevant(m netlink.Message) bool {
	route := m.Header.Type == unix.RTM_NEWROUTE || m.Header.Type == unix.RTM_DELROUTE
	if !route || len(m.Data) < unix.SizeofRtMsg {
		return true
	}
	const bits, kind = 1, 7 // rtm_dst_len and rtm_type of struct rtmsg (rtnetlink(7))
	if m.Data[bits] <= defaultBits {
		return true
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
	if err != nil {
		return true
	}
	for attributes.Next() {
		switch attributes.Type() {
		case unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
			return false
		}
	}
	return m.Data[kind] == unix.RTN_UNICAST
}

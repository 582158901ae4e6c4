//go:build linux

package live

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
)

// monitor notes when elements come into a namespace's sets: nf_tables tells
// whoever listens (as `nft monitor` does).
type monitor struct {
	conn   *netlink.Conn
	ended  sync.WaitGroup
	closed atomic.Bool

	mu   sync.Mutex
	came map[netip.Addr]time.Duration // CLOCK_MONOTONIC
	err  error
}

// monitorRoom is the receive buffer, in bytes: nothing is told twice.
const monitorRoom = 64 << 20

func startMonitor(ns *netns.Namespace) (*monitor, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD(), Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("listen to nf_tables: %w", err)
	}
	if err := c.SetReadBuffer(monitorRoom); err != nil {
		return nil, errors.Join(fmt.Errorf("make room for what nf_tables tells: %w", err), c.Close())
	}
	m := &monitor{conn: c, came: make(map[netip.Addr]time.Duration)}
	m.ended.Go(m.run)
	return m, nil
}

func (m *monitor) run() {
	// Its own waiting would be measured too: it goes ahead of those that it
	// watches.
	runtime.LockOSThread()
	err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	for err == nil {
		var messages []netlink.Message
		if messages, err = m.conn.Receive(); err == nil {
			err = m.note(monotonic(), messages)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed.Load() {
		m.err = err
	}
}

func (m *monitor) note(now time.Duration, messages []netlink.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range messages {
		if message.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM {
			continue
		}
		const generation = 4 // struct nfgenmsg, bytes
		if err := eachKey(message.Data[generation:], func(a netip.Addr) {
			if _, known := m.came[a]; !known {
				m.came[a] = now
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// eachKey calls do with the keys of a message's elements.
func eachKey(attributes []byte, do func(netip.Addr)) error {
	d, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return fmt.Errorf("read what nf_tables tells: %w", err)
	}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(elementKey(do))
				}
				return list.Err()
			})
		}
	}
	return d.Err()
}

func elementKey(do func(netip.Addr)) func(*netlink.AttributeDecoder) error {
	return func(element *netlink.AttributeDecoder) error {
		for element.Next() {
			if element.Type() != unix.NFTA_SET_ELEM_KEY {
				continue
			}
			element.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					if a, ok := netip.AddrFromSlice(key.Bytes()); ok && key.Type() == unix.NFTA_DATA_VALUE {
						do(a)
					}
				}
				return key.Err()
			})
		}
		return element.Err()
	}
}

// stop returns when which address came.
func (m *monitor) stop() (map[netip.Addr]time.Duration, error) {
	m.closed.Store(true)
	err := m.conn.Close()
	m.ended.Wait()
	return m.came, errors.Join(err, m.err)
}

// monotonic is CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // every Linux has it
	}
	return time.Duration(ts.Nano())
}

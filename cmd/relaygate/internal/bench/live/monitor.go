package live

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// monitor notes when elements come into a namespace's sets: nf_tables tells
// whoever listens (as `nft monitor` does). The time is that of the telling, by a
// filter of the socket that runs within the change itself: that the monitor must
// first be woken is not measured.
type monitor struct {
	hooks  // the socket's filter; the ring has when each datagram was sent
	conn   *netlink.Conn
	ended  sync.WaitGroup
	closed atomic.Bool

	mu   sync.Mutex
	came map[netip.Addr]int // number of the datagram
	err  error
}

const (
	monitorRoom  = 64 << 20 // receive buffer, in bytes: nothing is told twice
	monitorTimes = 16 << 20 // bytes: a million datagrams
)

func startMonitor(ns *netns.Namespace) *monitor {
	m := &monitor{came: make(map[netip.Addr]int)}
	m.record(monitorTimes)
	filter := m.load(ebpf.SocketFilter, ebpf.AttachNone, timeProgram(m.ring))
	m.conn = must.Get(netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()}))
	must.Do(m.conn.SetReadBuffer(monitorRoom))
	must.Do(must.Get(m.conn.SyscallConn()).Control(func(fd uintptr) {
		must.Do(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.FD()))
	}))
	// Not before: each datagram has its time.
	must.Do(m.conn.JoinGroup(unix.NFNLGRP_NFTABLES))
	m.ended.Go(m.run)
	return m
}

// timeProgram puts the time into the ring and lets the datagram pass as it is.
func timeProgram(ring *ebpf.Map) asm.Instructions {
	code := append(asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R10, -8, asm.R0, asm.DWord),
	}, output(ring, -8, 8, wakeNobody)...)
	return append(code, asm.Mov.Imm(asm.R0, math.MaxInt32), asm.Return()) // bytes to be kept
}

func (m *monitor) run() {
	var err error
	for number := 0; err == nil; number++ {
		var messages []netlink.Message
		if messages, err = m.conn.Receive(); err == nil { // one datagram
			err = m.note(number, messages)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed.Load() {
		m.err = err
	}
}

func (m *monitor) note(number int, messages []netlink.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range messages {
		if message.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM {
			continue
		}
		const generation = 4 // struct nfgenmsg, bytes
		if err := eachKey(message.Data[generation:], func(a netip.Addr) {
			if _, known := m.came[a]; !known {
				m.came[a] = number
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

// count is how many addresses have come.
func (m *monitor) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.came)
}

// stop returns when which address came, by CLOCK_MONOTONIC.
func (m *monitor) stop() map[netip.Addr]time.Duration {
	m.closed.Store(true)
	must.Do(m.conn.Close())
	m.ended.Wait()
	must.Do(m.err)
	var times []time.Duration
	m.drain(func(record []byte) {
		times = append(times, time.Duration(binary.NativeEndian.Uint64(record)&math.MaxInt64))
	})
	came := make(map[netip.Addr]time.Duration)
	for a, number := range m.came {
		if number >= len(times) {
			must.Do(fmt.Errorf("the monitor has %d times, and none of datagram %d", len(times), number))
		}
		came[a] = times[number]
	}
	must.Do(m.close())
	return came
}

package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sessionLimit bounds how many sessions one look lists.
const sessionLimit = 1 << 20

// errTooManySessions says that a look ended at sessionLimit.
var errTooManySessions = errors.New("too many sessions on the watched ports to list them all")

// Session is an established connection (RFC 9293 §3.3.2, ESTABLISHED) on a
// watched port.
type Session struct {
	// Cookie is the kernel's socket cookie, Netns the inode number of the
	// network namespace.
	Cookie, Netns uint64
	// Local and Remote are unmapped addresses.
	Local, Remote netip.AddrPort
	// Silent is the time since the peer was last heard, by data or by an
	// acknowledgement (keep-alives too), in whole milliseconds.
	Silent time.Duration
}

// Alive lists the sessions on the watched ports of all namespaces: one look at
// the tables of each. A connection that either side has begun to close is no
// session any more.
func (t *Tables) Alive() ([]Session, error) { return t.list(1 << tcpEstablished) }

// Unended are the cookies of the connections on the watched ports that Alive lists, and
// of those that a side has begun to close: the kernel still sees to them, for minutes
// where the other side is gone.
func (t *Tables) Unended() (map[uint64]bool, error) {
	list, err := t.list(1<<tcpEstablished | tcpClosing)
	if err != nil {
		return nil, err
	}
	all := make(map[uint64]bool, len(list))
	for i := range list {
		all[list[i].Cookie] = true
	}
	return all, nil
}

// list lists the connections of all namespaces in these states.
func (t *Tables) list(states uint32) (all []Session, err error) {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	for _, ns := range t.namespaces {
		err := ns.dump.sessions(t.ports, states, func(s Session) error {
			if len(all) == sessionLimit {
				return errTooManySessions
			}
			s.Netns = ns.id
			all = append(all, s)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("network namespace %d: %w", ns.id, err)
		}
	}
	return all, nil
}

// sessions hands on the connections on the local ports in these states. One call at a
// time: the answers are read as they come and not kept.
func (c conn) sessions(ports []uint16, states uint32, yield func(Session) error) (err error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	defer func() {
		if err != nil {
			c.drain()
		}
	}()
	req := netlink.Message{Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req.Data = dumpRequest(family, states, 1<<(inetDiagInfo-1), ports)
		c.soon()
		if _, err := c.Send(req); err != nil {
			return fmt.Errorf("list the sessions: %w", err)
		}
		for m, err := range c.ReceiveIter() {
			if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
				break // a kernel without IPv6
			}
			if err != nil {
				return fmt.Errorf("list the sessions: %w", err)
			}
			s, err := parse(m.Data)
			if err != nil {
				return fmt.Errorf("list the sessions: %w", err)
			}
			if states>>s.State&1 == 0 || !s.heard {
				continue
			}
			if err := yield(Session{Cookie: s.cookie, Local: s.Local, Remote: s.Remote, Silent: s.silent}); err != nil {
				return err
			}
		}
	}
	return nil
}

// silence reads from a struct tcp_info (linux/tcp.h) how long the peer has
// been silent.
func silence(info []byte) (time.Duration, bool) {
	const lastDataRecv, lastAckRecv, end = 52, 56, 60
	if len(info) < end {
		return 0, false
	}
	ms := min(binary.NativeEndian.Uint32(info[lastDataRecv:]), binary.NativeEndian.Uint32(info[lastAckRecv:]))
	return time.Duration(ms) * time.Millisecond, true
}

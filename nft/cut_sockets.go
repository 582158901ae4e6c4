package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY
	sockidSize       = 48 // struct inet_diag_sockid
	diagMsgSize      = 72 // struct inet_diag_msg
	requestBytecode  = 1  // INET_DIAG_REQ_BYTECODE
	remoteCondition  = 8  // INET_DIAG_BC_D_COND
)

// inProgress are the states of TCP in which something can still be said: not
// LISTEN, SYN_SENT, TIME_WAIT and CLOSE (linux/tcp_states.h).
const inProgress = 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 | 1<<12

// socket is a TCP socket of this host, by what the kernel knows it by.
type socket struct {
	family byte
	id     [sockidSize]byte
	client netip.AddrPort
}

// find lists the connections from these addresses to local ports, all if that is
// nil. A dual-stack listener's connections over IPv4 are of family AF_INET6.
func (c *Cutter) find(from sources, ports []uint16) (list []socket, err error) {
	families := []byte{unix.AF_INET6}
	if from.family() == unix.AF_INET {
		families = append(families, unix.AF_INET)
	}
	for _, family := range families {
		request := append(diagRequest(family, inProgress, [sockidSize]byte{}), remoteIs(from.cover)...)
		err := c.sockets.list(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
			Data:   request,
		}, func(m netlink.Message) error {
			s, port, ok := parseSocket(m.Data)
			if ok && from.match(s.client, port, ports) {
				list = append(list, s)
			}
			return nil
		})
		if err != nil && !errors.Is(err, errInterrupted) {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
	}
	return list, nil
}

// destroyAll ends what find lists.
func (c *Cutter) destroyAll(from sources, ports []uint16) (n int, err error) {
	live, err := c.find(from, ports)
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, s := range live {
		switch err := c.destroy(s); {
		case err == nil:
			n++
		case errors.Is(err, ErrUnsupported):
			return n, err
		case !errors.Is(err, unix.ENOENT): // it ended meanwhile
			failed = append(failed, err)
		}
	}
	return n, errors.Join(failed...)
}

// destroy is tcp_abort: both ends get ECONNRESET or the like.
func (c *Cutter) destroy(s socket) error {
	_, err := c.sockets.get(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   diagRequest(s.family, inProgress, s.id),
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("destroy sockets (CONFIG_INET_DIAG_DESTROY): %w", ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("destroy socket of %s: %w", s.client, err)
	}
	return nil
}

// diagRequest is struct inet_diag_req_v2.
func diagRequest(family byte, states uint32, id [sockidSize]byte) []byte {
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, id[:]...)
}

// remoteIs is an attribute with a program for the kernel's filter: one condition
// on the remote address, behind which the end is "yes" and 4 bytes on is "no".
func remoteIs(from netip.Prefix) []byte {
	family := byte(unix.AF_INET6)
	if from.Addr().Is4() {
		family = unix.AF_INET
	}
	addr := from.Addr().AsSlice()
	size := 4 + 8 + len(addr) // struct inet_diag_bc_op, inet_diag_hostcond, address
	program := []byte{remoteCondition, byte(size)}
	program = binary.NativeEndian.AppendUint16(program, uint16(size+4))
	program = append(program, family, byte(from.Bits()), 0, 0)
	program = binary.NativeEndian.AppendUint32(program, 1<<32-1) // any port
	var a attributes
	a.bytes(requestBytecode, append(program, addr...))
	return a
}

// parseSocket reads struct inet_diag_msg.
func parseSocket(b []byte) (s socket, port uint16, ok bool) {
	if len(b) < diagMsgSize {
		return s, 0, false
	}
	s.family = b[0]
	copy(s.id[:], b[4:])
	size := 16
	if s.family == unix.AF_INET {
		size = 4
	}
	addr, ok := netip.AddrFromSlice(s.id[20:][:size])
	s.client = netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(s.id[2:]))
	return s, binary.BigEndian.Uint16(s.id[:]), ok
}

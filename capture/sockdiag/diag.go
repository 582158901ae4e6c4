package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Constants of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily   = 20
	inetDiagSKV6Only   = 11
	inetDiagMsgLen     = 72
	inetDiagNoCookie   = 1<<32 - 1
	tcpEstablished     = 1
	tcpListen          = 10
	tcpSynReceived     = 3
	tcpTimeWait        = 6
	tcpClose           = 7
	tcpNewSynReceived  = 12
	sockIDOffset       = 8 // of struct inet_diag_sockid in the request
	sockIDOffsetAnswer = 4 // and in the answer
)

// Socket is a TCP socket as the kernel's tables show it. Addresses are
// unmapped.
type Socket struct {
	Local, Remote netip.AddrPort
	State         uint8
	// V6Only is true for IPv6 sockets that take no IPv4 connections.
	V6Only bool
	// UID is the owner, in the initial user namespace: of a listener who
	// made it, of an accepted connection who accepted it (then not
	// necessarily the listener's).
	UID uint32
	// Inode is 0 for a connection that nobody has accepted yet.
	Inode uint32
}

// conn asks the tables of one network namespace.
type conn struct{ *netlink.Conn }

// dial opens a socket in the namespace of the descriptor.
func dial(netns int) (conn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: netns})
	if err != nil {
		return conn{}, fmt.Errorf("open sock_diag: %w", err)
	}
	return conn{c}, nil
}

// listening lists the listeners on a local port.
func (c conn) listening(port uint16) ([]Socket, error) {
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := request(family, 1<<tcpListen)
		binary.BigEndian.PutUint16(req[sockIDOffset:], port)
		answers, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   req,
		})
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the listeners on port %d: %w", port, err)
		}
		for _, m := range answers {
			s, err := parse(m.Data)
			if err != nil {
				return nil, fmt.Errorf("list the listeners on port %d: %w", port, err)
			}
			if s.Local.Port() == port && s.State == tcpListen {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// find looks for the one socket with these addresses. It does not find the
// kernel's request and time-wait sockets, nor the listener in its stead.
func (c conn) find(local, remote netip.AddrPort) (s Socket, ok bool, err error) {
	family := uint8(unix.AF_INET6)
	if local.Addr().Is4() {
		family = unix.AF_INET
	}
	req := request(family, 0)
	id := req[sockIDOffset:]
	binary.BigEndian.PutUint16(id, local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
		Data:   req,
	})
	if errors.Is(err, unix.ENOENT) {
		return Socket{}, false, nil
	}
	if err != nil {
		return Socket{}, false, fmt.Errorf("look up a connection: %w", err)
	}
	for _, m := range answers {
		s, err := parse(m.Data)
		if err != nil {
			return Socket{}, false, fmt.Errorf("look up a connection: %w", err)
		}
		if s.Local == local && s.Remote == remote && s.connected() {
			return s, true, nil
		}
	}
	return Socket{}, false, nil
}

// connected says whether the socket is one of an established connection, or of
// one that is being closed but can still talk.
func (s Socket) connected() bool {
	switch s.State {
	case tcpListen, tcpClose, tcpTimeWait, tcpSynReceived, tcpNewSynReceived:
		return false
	}
	return s.State >= tcpEstablished
}

// request is a struct inet_diag_req_v2 for TCP without a cookie.
func request(family uint8, states uint32) []byte {
	req := make([]byte, 56)
	req[0], req[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], states)
	binary.NativeEndian.PutUint32(req[48:], inetDiagNoCookie)
	binary.NativeEndian.PutUint32(req[52:], inetDiagNoCookie)
	return req
}

// parse reads a struct inet_diag_msg and the attributes behind it.
func parse(b []byte) (Socket, error) {
	if len(b) < inetDiagMsgLen {
		return Socket{}, fmt.Errorf("sock_diag answer of %d bytes, want %d", len(b), inetDiagMsgLen)
	}
	id := b[sockIDOffsetAnswer:]
	s := Socket{
		State:  b[1],
		Local:  addrPort(b[0], id[4:20], binary.BigEndian.Uint16(id)),
		Remote: addrPort(b[0], id[20:36], binary.BigEndian.Uint16(id[2:])),
		UID:    binary.NativeEndian.Uint32(b[64:]),
		Inode:  binary.NativeEndian.Uint32(b[68:]),
	}
	attrs, err := netlink.NewAttributeDecoder(b[inetDiagMsgLen:])
	if err != nil {
		return Socket{}, fmt.Errorf("sock_diag attributes: %w", err)
	}
	for attrs.Next() {
		if attrs.Type() == inetDiagSKV6Only {
			s.V6Only = attrs.Uint8() != 0
		}
	}
	if err := attrs.Err(); err != nil {
		return Socket{}, fmt.Errorf("sock_diag attributes: %w", err)
	}
	return s, nil
}

func addrPort(family uint8, addr []byte, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addr)).Unmap(), port)
}

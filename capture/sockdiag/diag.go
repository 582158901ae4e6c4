package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Constants of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily   = 20
	inetDiagBytecode   = 1 // INET_DIAG_REQ_BYTECODE
	inetDiagInfo       = 2
	inetDiagSKV6Only   = 11
	inetDiagSockOpt    = 22 // struct inet_diag_sockopt, of bits
	inetTransparent    = 1 << 5
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

// tcpClosing are the states FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING.
const tcpClosing = 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11

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

	// transparent sockets take what is for other hosts and ports (IP_TRANSPARENT, ip(7)).
	// An accepted connection's is as its listener was.
	transparent bool

	device uint32 // that it is bound to (SO_BINDTODEVICE, socket(7)), 0 for none
	cookie uint64
	silent time.Duration // valid if heard
	heard  bool
}

// conn asks the tables of one network namespace.
type conn struct {
	*netlink.Conn
	asking *sync.Mutex // held during a request and its answers
}

// dial opens a socket in the namespace of the descriptor.
func dial(netns int) (conn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: netns})
	if err != nil {
		return conn{}, fmt.Errorf("open sock_diag: %w", err)
	}
	return conn{c, new(sync.Mutex)}, nil
}

// execute returns the answers to a request.
func (c conn) execute(m netlink.Message) ([]netlink.Message, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	c.soon()
	answers, err := c.Execute(m)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		c.drain()
	}
	return answers, err
}

// soon bounds the time to send in: the poller does not tell of a socket of netlink again
// that refused to (EAGAIN, EINTR).
func (c conn) soon() { _ = c.SetWriteDeadline(time.Now().Add(sentWithin)) } // an error: sending has it too

// sentWithin is far more than a request takes.
const sentWithin = time.Second

// drain reads what is left where reading failed, for want of memory say: each later
// request would find the answers to another one. No socket can be opened in its place
// when the capabilities for that are given up.
func (c conn) drain() {
	const within, parts = 20 * time.Millisecond, 10_000 // of a list
	if c.SetReadDeadline(time.Now().Add(within)) != nil {
		return
	}
	for range parts {
		if _, err := c.Receive(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	_ = c.SetReadDeadline(time.Time{}) // as above
}

// listening lists the listeners on the local ports.
func (c conn) listening(ports []uint16) ([]Socket, error) {
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		answers, err := c.execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   dumpRequest(family, 1<<tcpListen, 0, ports),
		})
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the listeners: %w", err)
		}
		for _, m := range answers {
			s, err := parse(m.Data)
			if err != nil {
				return nil, fmt.Errorf("list the listeners: %w", err)
			}
			if s.State == tcpListen {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// has says whether there is a connection with these addresses, bound to the device or to
// none. The kernel's request and time-wait sockets are none, nor is the listener in its
// stead. A transparent one counts where a listener there is.
func (c conn) has(local, remote netip.AddrPort, device uint32, transparent bool) (bool, error) {
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
	binary.NativeEndian.PutUint32(id[36:], device)
	answers, err := c.execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
		Data:   req,
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up a connection: %w", err)
	}
	for _, m := range answers {
		s, err := parse(m.Data)
		if err != nil {
			return false, fmt.Errorf("look up a connection: %w", err)
		}
		if s.Local == local && s.Remote == remote && s.connected() && (transparent || !s.transparent) {
			return true, nil
		}
	}
	return false, nil
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

// dumpRequest asks for all sockets in these states with one of the local ports.
func dumpRequest(family uint8, states uint32, extensions uint8, ports []uint16) []byte {
	req := request(family, states)
	req[2] = extensions
	filter := portFilter(ports)
	header := make([]byte, 4) // struct nlattr
	binary.NativeEndian.PutUint16(header, uint16(len(header)+len(filter)))
	binary.NativeEndian.PutUint16(header[2:], inetDiagBytecode)
	return append(append(req, header...), filter...)
}

// portFilter is a program that accepts the local ports (struct inet_diag_bc_op
// of linux/inet_diag.h), so that one dump serves them all and shows nothing
// else. Each operation says how many bytes to go on if it holds, and if not;
// to arrive right at the end accepts, to go four bytes beyond rejects. A
// comparison takes its port from the operation behind it.
func portFilter(ports []uint16) []byte {
	const nop, jump, atLeast, atMost = 0, 1, 2, 3 // INET_DIAG_BC_NOP, _JMP, _S_GE, _S_LE
	const size, block = 4, 20
	var program []byte
	op := func(code, yes uint8, no int) {
		program = binary.NativeEndian.AppendUint16(append(program, code, yes), uint16(no))
	}
	for i, port := range ports {
		rest := (len(ports) - 1 - i) * block
		next := block // where a port that is not this one goes on
		if rest == 0 {
			next += size
		}
		op(atLeast, 2*size, next)
		op(nop, size, int(port))
		op(atMost, 2*size, next-2*size)
		op(nop, size, int(port))
		op(jump, size, size+rest)
	}
	return program
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
		device: binary.NativeEndian.Uint32(id[36:]),
		cookie: uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32,
	}
	attrs, err := netlink.NewAttributeDecoder(b[inetDiagMsgLen:])
	if err != nil {
		return Socket{}, fmt.Errorf("sock_diag attributes: %w", err)
	}
	for attrs.Next() {
		switch attrs.Type() {
		case inetDiagSKV6Only:
			s.V6Only = attrs.Uint8() != 0
		case inetDiagSockOpt:
			options := attrs.Bytes()
			s.transparent = len(options) > 0 && options[0]&inetTransparent != 0
		case inetDiagInfo:
			s.silent, s.heard = silence(attrs.Bytes())
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

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// quickMost is up to how many members one quick transaction adds.
const quickMost = 64

// quick adds members with messages of its own in memory of its own: what stands
// between a proved login and its element is two system calls. It asks for no
// acknowledgement: the runtime's poller would be woken for it, which takes as long as
// the transaction. The kernel answers before send returns, and always if it refuses
// something or has no memory for an answer (nfnetlink_rcv_batch, netlink_ack). So
// silence is success. After any answer, add says the same again the usual way,
// which finds out what the matter is.
type quick struct {
	fd       int // of the conn's socket
	sequence uint32
	request  []byte
	answer   [1]byte
}

// errNotQuick says that a quick transaction did not simply succeed.
var errNotQuick = errors.New("not done at once")

// newQuick is nil where there is no socket, as in tests.
func newQuick(c conn) *quick {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	q := &quick{sequence: 1}
	// The descriptor is the conn's, and valid until that is closed.
	if raw.Control(func(fd uintptr) { q.fd = int(fd) }) != nil {
		return nil
	}
	return q
}

// add adds members, sorted by set, in one transaction, if none of them is held.
func (q *quick) add(table tableID, members []member) error {
	q.sequence += 2
	q.encode(table, members)
	// The runtime is not told of these calls: it would wake a thread to watch
	// this one, which takes longer than they do. They do not wait, but for
	// another program's transaction.
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(q.fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(q.request))), uintptr(len(q.request)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("%w: send: %w", errNotQuick, errno)
	}
	_, _, errno = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(q.fd),
		uintptr(unsafe.Pointer(&q.answer[0])), uintptr(len(q.answer)), unix.MSG_DONTWAIT, 0, 0)
	if errno != unix.EAGAIN {
		return fmt.Errorf("%w: answered, or not: %w", errNotQuick, errno)
	}
	return nil
}

// encode makes the transaction: for each set one message. The begin has a number of
// its own, by which the kernel answers if it refuses the whole.
func (q *quick) encode(table tableID, members []member) {
	b := attributes(q.request[:0])
	b.edge(unix.NFNL_MSG_BATCH_BEGIN, q.sequence-1)
	var key [16]byte
	for len(members) > 0 {
		n := sameSet(members)
		at := b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM, netlink.Request|netlink.Create|netlink.Excl, q.sequence)
		b = table.appendBody(b)
		b.string(unix.NFTA_SET_ELEM_LIST_SET, members[0].set)
		list := b.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, m := range members[:n] {
			octets, _ := m.key.AppendBinary(key[:0]) // an address without a zone: its bytes
			b.element(setElement{key: octets, timeout: m.timeout, remaining: m.remaining})
		}
		b.close(list)
		b.end(at)
		members = members[n:]
	}
	b.edge(unix.NFNL_MSG_BATCH_END, q.sequence)
	q.request = b
}

// message appends a struct nlmsghdr; end, given what message returned, sets its
// length.
func (a *attributes) message(kind uint16, flags netlink.HeaderFlags, sequence uint32) int {
	at := len(*a)
	*a = append(*a, 0, 0, 0, 0)
	*a = binary.NativeEndian.AppendUint16(*a, kind)
	*a = binary.NativeEndian.AppendUint16(*a, uint16(flags))
	*a = binary.NativeEndian.AppendUint32(*a, sequence)
	*a = append(*a, 0, 0, 0, 0) // the kernel knows the port
	return at
}

func (a *attributes) end(at int) {
	binary.NativeEndian.PutUint32((*a)[at:], uint32(len(*a)-at))
}

// edge is batchEdge.
func (a *attributes) edge(kind uint16, sequence uint32) {
	at := a.message(kind, netlink.Request, sequence)
	*a = append(*a, nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)...)
	a.end(at)
}

package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// conn is a netlink socket for requests. Each method reads all answers to
// what it sent, so that the next one finds none of them.
type conn struct {
	*netlink.Conn
	within time.Duration // see soon
}

// answerWithin is far more than what passes between two system calls.
const answerWithin = 2 * time.Second

// answerSize is more than any datagram that answers a request: a part of a
// listing has 32 KiB at most.
const answerSize = 64 << 10

// open opens a socket of a family of netlink(7), dial one for nf_tables.
func open(family, netns int) (conn, error) {
	c, err := netlink.Dial(family, &netlink.Config{NetNS: netns, MessageBufferSize: answerSize})
	if err != nil {
		return conn{}, fmt.Errorf("open netlink socket: %w", err)
	}
	return conn{c, answerWithin}, nil
}

func dial(netns int) (conn, error) {
	c, err := open(unix.NETLINK_NETFILTER, netns)
	if err != nil {
		return c, err
	}
	// Else the kernel sends each refused message back as a whole.
	if err := c.SetOption(netlink.CapAcknowledge, true); err != nil {
		return conn{}, errors.Join(fmt.Errorf("set netlink option: %w", err), c.Close())
	}
	// Whatever net.core.rmem_default is, there is room for what the kernel tells of a new table.
	if err := c.SetReadBuffer(4 * answerSize); err != nil {
		return conn{}, errors.Join(fmt.Errorf("make room for answers: %w", err), c.Close())
	}
	return c, nil
}

// Send sends one request.
func (c conn) Send(m netlink.Message) (netlink.Message, error) {
	c.soon()
	return c.Conn.Send(m)
}

// SendMessages sends requests as one datagram.
func (c conn) SendMessages(list []netlink.Message) ([]netlink.Message, error) {
	c.soon()
	return c.Conn.SendMessages(list)
}

// Receive reads answers.
func (c conn) Receive() ([]netlink.Message, error) {
	c.soon()
	return c.Conn.Receive()
}

// soon bounds the time to send and to read in. The kernel answers before send returns, and
// makes each part of a list when it is read. So what is not there is lost: for want of room
// in the socket's buffer, which it tells (ENOBUFS) of the first alone until all is read.
// Nor does the poller tell of a socket again that refused to send (EAGAIN, EINTR), as one
// of netlink never does by itself.
func (c conn) soon() { _ = c.SetDeadline(time.Now().Add(c.within)) } // an error: what follows has it too

// commit sends batch as one transaction and returns the objects that the
// kernel echoed. On an error nothing has changed, except for one that has lost
// the kernel's answer (ENOBUFS): then the outcome is not known.
func (c conn) commit(batch []netlink.Message) ([]netlink.Message, error) {
	return c.commitAt(anyGeneration, batch)
}

// anyGeneration lets a transaction come behind any other.
const anyGeneration = 0

// commitAt is commit if no transaction came since a generation, else the error is
// unix.ERESTART.
func (c conn) commitAt(generation uint32, batch []netlink.Message) ([]netlink.Message, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	batch[len(batch)-1].Header.Flags |= netlink.Acknowledge
	begin := batchEdge(unix.NFNL_MSG_BATCH_BEGIN)
	if generation != anyGeneration {
		body := attributes(begin.Data)
		body.uint32(unix.NFNL_BATCH_GENID, generation)
		begin.Data = body
	}
	batch = slices.Concat([]netlink.Message{begin}, batch, []netlink.Message{batchEdge(unix.NFNL_MSG_BATCH_END)})
	if err := c.room(batch); err != nil {
		return nil, err
	}
	sent, err := c.SendMessages(batch)
	if err != nil {
		return nil, fmt.Errorf("send transaction: %w", err)
	}
	return c.outcome(sent[0].Header.Sequence, sent[len(sent)-2].Header.Sequence)
}

// outcome reads the answers to a transaction, from its begin to its last
// message, the only one that asked for an acknowledgement. A message that fails
// is answered too; so is the begin if the transaction as a whole was refused,
// and then it is not said whether more answers follow.
func (c conn) outcome(begin, last uint32) (echo []netlink.Message, failed error) {
	for {
		replies, err := c.Receive()
		if err != nil {
			if failed == nil {
				failed = fmt.Errorf("transaction: %w", err)
			}
			switch answered(err) {
			case 0:
				c.drain()
				return nil, failed
			case begin:
				return nil, errors.Join(failed, c.settle())
			case last:
				return nil, failed
			}
			continue
		}
		for _, m := range replies {
			if m.Header.Type != netlink.Error {
				echo = append(echo, m)
			} else if m.Header.Sequence == last {
				return echo, failed
			}
		}
	}
}

// settle reads what is left of the answers to earlier requests.
func (c conn) settle() error {
	if _, err := c.generation(); err != nil {
		return fmt.Errorf("settle netfilter socket: %w", err)
	}
	return nil
}

// generation is that of all rulesets: each transaction makes another, whose ever.
func (c conn) generation() (id uint32, err error) {
	m, err := c.get(message(unix.NFT_MSG_GETGEN, 0, nfgenmsg(unix.NFPROTO_INET, 0)))
	if err != nil {
		return 0, fmt.Errorf("get the rulesets' generation: %w", err)
	}
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_GEN_ID {
			id = ad.Uint32()
		}
	})
	return id, err
}

// answered returns the number of the request that the kernel answered with
// err, 0 if err is one of the socket.
func answered(err error) uint32 {
	if op, ok := errors.AsType[*netlink.OpError](err); ok {
		return op.Sequence
	}
	return 0
}

// room makes the socket's send buffer large enough: a transaction is one
// datagram.
func (c conn) room(batch []netlink.Message) error {
	size := 0
	for _, m := range batch {
		size += unix.SizeofNlMsghdr + len(m.Data) + unix.NLMSG_ALIGNTO
	}
	const always = 64 << 10 // less than any default
	if size < always {
		return nil
	}
	// The kernel doubles the number, to pay for its own overhead.
	if err := c.SetWriteBuffer(size); err != nil {
		return fmt.Errorf("make room for a transaction of %d bytes: %w", size, err)
	}
	return nil
}

// errInterrupted says that the ruleset changed while it was being listed.
var errInterrupted = errors.New("ruleset changed while it was listed")

// again does what fails because others write meanwhile until that is not why it fails, some
// times: they may be writing all the time.
func again(meanwhile error, do func() error) (err error) {
	const attempts = 10
	for range attempts {
		if err = do(); !errors.Is(err, meanwhile) {
			break
		}
	}
	return err
}

// list calls each with every object that answers a request to dump. After its
// first error it is not called again.
func (c conn) list(request netlink.Message, each func(netlink.Message) error) error {
	request.Header.Flags |= netlink.Dump
	if _, err := c.Send(request); err != nil {
		return fmt.Errorf("send request to list: %w", err)
	}
	interrupted := false
	var failed error
	c.soon()
	for m, err := range c.ReceiveIter() {
		c.soon()
		if err != nil {
			defer c.drain() // behind the iteration, which holds a lock
			return fmt.Errorf("list: %w", err)
		}
		interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		if failed == nil {
			failed = each(m)
		}
	}
	if failed == nil && interrupted {
		return errInterrupted
	}
	return failed
}

// drain reads what is left where reading failed, for want of memory say: what is listed
// next would begin with it.
func (c conn) drain() {
	const within, parts = 20 * time.Millisecond, 10_000 // of a list
	if c.SetReadDeadline(time.Now().Add(within)) != nil {
		return
	}
	for range parts {
		if _, err := c.Conn.Receive(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
}

// get returns the answer to a request for one object.
func (c conn) get(request netlink.Message) (netlink.Message, error) {
	request, err := c.Send(request)
	if err != nil {
		return netlink.Message{}, fmt.Errorf("send request: %w", err)
	}
	return c.answer(request.Header.Sequence)
}

// answer reads the one answer to request number sequence, and whatever is
// left before it.
func (c conn) answer(sequence uint32) (netlink.Message, error) {
	for {
		replies, err := c.Receive()
		if err != nil {
			switch answered(err) {
			case sequence:
			case 0:
				c.drain()
			default:
				continue
			}
			return netlink.Message{}, err
		}
		for _, m := range replies {
			if m.Header.Sequence == sequence {
				return m, nil
			}
		}
	}
}

package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// AFPacket is a live tap by a packet socket, for hosts where cgroup programs cannot
// be had. It reads like a file: handshakes are seen as packets, segments have no
// cookie, and the packet type tells which of them this host sent. That a segment
// came from this host does not say from whom on it: what is learned here is believed
// only after the socket tables show that very connection.
//
// It is one socket for all interfaces, as the kernel takes a client's segments by
// whichever they come in, and only one ring has them in the order of their coming.
// What leaves counts on the named interfaces alone: by others a bridge sends what
// containers say.
//
// On the inside interfaces of a gateway it is the other way round: what came in
// there is the mail servers', and what left towards them the clients'. There the
// kernel's routes say where a server is, and no table is asked. Of other interfaces
// nothing counts.
//
// Only one goroutine may use an AFPacket, but for Wake and SetInterfaces.
type AFPacket struct {
	decoder  *Decoder
	inside   bool
	ring     *packetRing
	named    atomic.Pointer[[]int] // indexes
	changed  atomic.Bool           // they did, since the ring was looked at
	polls    [2]unix.PollFd
	wake     int // an eventfd
	deadline time.Time
	stats    AFPacketStats
	// lossy counts down the blocks before which Lost is told, for reason.
	lossy  int
	reason string
}

// AFPacketStats counts what an AFPacket read and lost.
type AFPacketStats struct {
	// Packets passed the filter and were read, Drops found the ring full.
	Packets, Drops uint64
}

// OpenAFPacket taps the calling thread's network namespace. The named interfaces are
// those with the given indexes; inside says that they lead to mail servers behind this
// host. It needs CAP_NET_RAW.
func OpenAFPacket(interfaces []int, inside bool, d *Decoder) (_ *AFPacket, err error) {
	a := &AFPacket{decoder: d, inside: inside}
	filter, err := a.filter(interfaces)
	if err != nil {
		return nil, err
	}
	a.named.Store(&interfaces)
	a.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	if a.ring, err = openPacketRing(filter); err != nil {
		return nil, err
	}
	a.polls = [2]unix.PollFd{
		{Fd: int32(a.wake), Events: unix.POLLIN},
		{Fd: int32(a.ring.fd), Events: unix.POLLIN | unix.POLLERR},
	}
	return a, nil
}

func (a *AFPacket) filter(interfaces []int) ([]bpf.RawInstruction, error) {
	return packetFilter(a.decoder.ports.Ports(), interfaces, a.inside)
}

// SetInterfaces changes which interfaces are the named ones. Every connection of before
// is in doubt then: what passed meanwhile may not have been seen. Any goroutine may
// call it before Close.
func (a *AFPacket) SetInterfaces(indexes []int) error {
	filter, err := a.filter(indexes)
	if err != nil {
		return err
	}
	if err := a.ring.setFilter(filter); err != nil {
		return err
	}
	a.named.Store(&indexes)
	a.changed.Store(true)
	return nil
}

// SetDeadline bounds how long Next waits when there is nothing; the zero time
// removes the bound. It does not hold back packets that are there.
func (a *AFPacket) SetDeadline(t time.Time) { a.deadline = t }

// Wake makes the waiting Next, or the next one that would wait, return
// os.ErrDeadlineExceeded at once. Any goroutine may call it before Close.
func (a *AFPacket) Wake() {
	// Only a full counter refuses, and then Next is awake.
	_, _ = unix.Write(a.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

// Stats returns the counters.
func (a *AFPacket) Stats() AFPacketStats { return a.stats }

// Next waits for an Event. It returns os.ErrDeadlineExceeded if there is none
// at the deadline, or after Wake. After a loss it returns Lost events without a
// cookie: every connection may be concerned.
func (a *AFPacket) Next(ev *Event) error {
	if a.ring == nil {
		return os.ErrClosed
	}
	if a.decoder.more(ev) {
		return nil
	}
	for {
		if !a.ring.open {
			lost, err := a.begin(ev)
			if err != nil || lost {
				return err
			}
			continue
		}
		raw, ok := a.ring.next()
		if !ok {
			a.ring.end()
			continue
		}
		a.stats.Packets++
		p := packet{time: raw.time, sent: sender(raw.kind)}
		if a.inside && !p.takeSide(&raw) {
			continue
		}
		p.aside = !a.inside && !slices.Contains(*a.named.Load(), raw.index)
		if a.decoder.ip(&p, raw.data, raw.wireLen, ev) {
			return nil
		}
	}
}

// takeSide says of a packet of an inside interface which side sent it. What is
// addressed to another station is no traffic of this host.
func (p *packet) takeSide(raw *ringPacket) bool {
	switch raw.kind {
	case unix.PACKET_HOST:
		p.sent = SenderInside
	case unix.PACKET_OUTGOING:
		p.sent = SenderOutside
	default:
		return false
	}
	p.link.VLAN[0], p.link.Interface = raw.vlan, uint32(raw.index)
	return true
}

// begin opens the next block, waiting for one. If packets were lost it fills in a
// Lost event instead and returns true.
//
// A loss lies in the blocks that are full, or in the one that the kernel fills now:
// Lost comes now, before each of those, and behind the last, and so also after
// connections that open in them.
func (a *AFPacket) begin(ev *Event) (lost bool, err error) {
	if a.ring.full() == 0 {
		return false, a.wait()
	}
	drops, err := a.ring.drops()
	if err != nil {
		return false, err
	}
	reason := ""
	if a.changed.Swap(false) {
		reason = "the interfaces that are tapped changed"
	}
	if drops > 0 {
		a.stats.Drops += drops
		reason = "the AF_PACKET ring overflowed"
	}
	if reason != "" {
		// Blocks that came to be full until now may lie before the loss.
		a.lossy, a.reason = a.ring.full()+2, reason
	}
	a.ring.begin()
	if a.lossy == 0 {
		return false, nil
	}
	a.lossy--
	a.decoder.lost(a.ring.since())
	*ev = Event{Kind: Lost, Time: a.ring.since(), Reason: a.reason}
	return true, nil
}

// wait blocks until the ring has something.
func (a *AFPacket) wait() error {
	timeout := -1
	if !a.deadline.IsZero() {
		left := time.Until(a.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		// Rounded up, or the last millisecond would be spent spinning.
		timeout = int((left + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.Poll(a.polls[:], timeout)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("poll AF_PACKET ring: %w", err)
	}
	if n == 0 {
		return os.ErrDeadlineExceeded
	}
	if a.polls[1].Revents&unix.POLLERR != 0 {
		if err := a.ring.failure(); err != nil {
			return err
		}
	}
	if a.polls[0].Revents != 0 {
		var count [8]byte
		if _, err := unix.Read(a.wake, count[:]); err != nil && err != unix.EAGAIN {
			return fmt.Errorf("read eventfd: %w", err)
		}
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Close ends the tap.
func (a *AFPacket) Close() error {
	var err error
	if a.ring != nil {
		err = a.ring.close()
		a.ring = nil
	}
	if failed := unix.Close(a.wake); failed != nil {
		err = errors.Join(err, fmt.Errorf("close eventfd: %w", failed))
	}
	return err
}

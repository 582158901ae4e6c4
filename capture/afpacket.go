//go:build linux

package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// AFPacket is a live tap on named interfaces, for hosts where cgroup programs
// cannot be had. It reads like a file: handshakes are seen as packets, segments
// have no cookie, and the packet type tells which of them this host sent. That
// a segment came from this host does not say from whom on it: what is learned
// here is believed only after the socket tables show that very connection.
//
// On an inside interface of a gateway it is the other way round: what came in
// there is the mail servers', and what left towards them the clients'. There the
// kernel's routes say where a server is, and no table is asked.
//
// Only one goroutine may use an AFPacket, but for Wake.
type AFPacket struct {
	decoder  *Decoder
	inside   bool
	rings    []*packetRing
	turn     int // the ring to be read, or that is
	polls    []unix.PollFd
	wake     int // an eventfd
	deadline time.Time
	stats    AFPacketStats
}

// AFPacketStats counts what an AFPacket read and lost.
type AFPacketStats struct {
	// Packets passed the filter and were read, Drops found the ring full.
	Packets, Drops uint64
}

// ErrOneInside says that AF_PACKET taps one inside interface at most: between
// the rings of several, the order of packets is not known.
var ErrOneInside = errors.New("packet sockets can tap one inside interface alone")

// OpenAFPacket taps the named interfaces of the calling thread's network
// namespace; inside says that they lead to mail servers behind this host. It
// needs CAP_NET_RAW.
func OpenAFPacket(interfaces []string, inside bool, d *Decoder) (_ *AFPacket, err error) {
	if len(interfaces) == 0 {
		return nil, errors.New("AF_PACKET tap: no interface named")
	}
	if inside && len(interfaces) > 1 {
		return nil, ErrOneInside
	}
	filter, err := packetFilter(d.ports.Ports())
	if err != nil {
		return nil, err
	}
	a := &AFPacket{decoder: d, inside: inside}
	a.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	a.polls = append(a.polls, unix.PollFd{Fd: int32(a.wake), Events: unix.POLLIN})
	for _, name := range interfaces {
		r, err := openPacketRing(name, filter)
		if err != nil {
			return nil, err
		}
		a.rings = append(a.rings, r)
		a.polls = append(a.polls, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN | unix.POLLERR})
	}
	return a, nil
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
	if len(a.rings) == 0 {
		return os.ErrClosed
	}
	if a.decoder.more(ev) {
		return nil
	}
	for {
		ring := a.rings[a.turn]
		if !ring.open {
			lost, err := a.begin(ev)
			if err != nil || lost {
				return err
			}
			continue
		}
		raw, ok := ring.next()
		if !ok {
			ring.end()
			a.turn = (a.turn + 1) % len(a.rings)
			continue
		}
		a.stats.Packets++
		p := packet{time: raw.time, sent: sender(raw.kind)}
		if a.inside && !p.takeSide(&raw) {
			continue
		}
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
	p.link.VLAN[0] = raw.vlan
	return true
}

// begin opens the next block of some ring, waiting for one. If packets were
// lost it fills in a Lost event instead and returns true.
//
// The kernel drops when all blocks are full, so a loss lies behind at most
// ringBlocks blocks: Lost comes now and before each of those, and so also after
// connections that open in them.
func (a *AFPacket) begin(ev *Event) (lost bool, err error) {
	for range a.rings {
		ring := a.rings[a.turn]
		if !ring.ready() {
			a.turn = (a.turn + 1) % len(a.rings)
			continue
		}
		drops, err := ring.drops()
		if err != nil {
			return false, err
		}
		a.stats.Drops += drops
		if drops > 0 {
			ring.lossy = ringBlocks + 1
		}
		ring.begin()
		if ring.lossy == 0 {
			return false, nil
		}
		ring.lossy--
		a.decoder.lost(ring.since())
		*ev = Event{Kind: Lost, Time: ring.since(), Reason: "the AF_PACKET ring overflowed"}
		return true, nil
	}
	return false, a.wait()
}

// wait blocks until a ring has something.
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
	n, err := unix.Poll(a.polls, timeout)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("poll AF_PACKET rings: %w", err)
	}
	if n == 0 {
		return os.ErrDeadlineExceeded
	}
	for i := range a.rings {
		if a.polls[i+1].Revents&unix.POLLERR != 0 {
			if err := a.rings[i].failure(); err != nil {
				return err
			}
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
	var errs []error
	for _, r := range a.rings {
		errs = append(errs, r.close())
	}
	if err := unix.Close(a.wake); err != nil {
		errs = append(errs, fmt.Errorf("close eventfd: %w", err))
	}
	a.rings = nil
	return errors.Join(errs...)
}

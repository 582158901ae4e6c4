package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Reader reads the two rings of a Tap as one stream: a connection's Opened
// comes before its packets, and its Closed after them. Only one goroutine may
// call its methods, except Wake.
type Reader struct {
	packets, events *ringbuf.Reader
	epoll, wake     int
	woken           atomic.Bool
	deadline        time.Time
	ready           [3]unix.EpollEvent

	// packet and event were read from their rings and not handed on yet.
	packet, event       ringbuf.Record
	hasPacket, hasEvent bool
	next                Record // decoded event
	nextPosition        uint64
	// position is where packet, or if there is none the next one, starts in
	// the packets ring.
	position uint64
}

func newReader(packets, events *ebpf.Map) (*Reader, error) {
	r := &Reader{epoll: -1, wake: -1}
	if err := r.open(packets, events); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Reader) open(packets, events *ebpf.Map) (err error) {
	if r.packets, err = ringbuf.NewReader(packets); err != nil {
		return fmt.Errorf("open the packets ring: %w", err)
	}
	if r.events, err = ringbuf.NewReader(events); err != nil {
		return fmt.Errorf("open the events ring: %w", err)
	}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range []int{packets.FD(), events.FD(), r.wake} {
		err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	// The rings' own readers never wait: Next waits for both.
	past := time.Unix(1, 0)
	r.packets.SetDeadline(past)
	r.events.SetDeadline(past)
	return nil
}

// SetDeadline bounds how long Next waits; the zero time removes the bound.
func (r *Reader) SetDeadline(t time.Time) { r.deadline = t }

// Wake makes the waiting Next, or the next one, return os.ErrDeadlineExceeded
// at once. Any goroutine may call it until Close.
func (r *Reader) Wake() {
	r.woken.Store(true)
	// It fails only if the counter is full: then it wakes as well.
	_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Next waits for a record. It returns os.ErrDeadlineExceeded when there is none
// at the deadline, or after Wake. rec is overwritten by the next call.
func (r *Reader) Next(rec *Record) error {
	for {
		if r.woken.Swap(false) {
			return os.ErrDeadlineExceeded
		}
		// The packet before the event: what was opened before this packet
		// is then in the events ring.
		if err := r.readPacket(); err != nil {
			return err
		}
		if err := r.readEvent(); err != nil {
			return err
		}
		switch {
		case r.hasEvent && r.nextPosition <= r.position:
			*rec = r.next
			r.hasEvent = false
			return nil
		case r.hasPacket:
			r.hasPacket = false
			r.position += ringBytes(len(r.packet.RawSample))
			return decodePacket(r.packet.RawSample, rec)
		case r.hasEvent:
			// Packets came between the two reads.
			continue
		}
		if err := r.wait(); err != nil {
			return err
		}
	}
}

// ringBytes is the room that a record takes in a ring (struct bpf_ringbuf_hdr
// and the rounding of __bpf_ringbuf_reserve).
func ringBytes(n int) uint64 { return (uint64(n) + 8 + 7) &^ 7 }

func (r *Reader) readPacket() error {
	if r.hasPacket {
		return nil
	}
	var err error
	r.hasPacket, err = read(r.packets, &r.packet)
	if err != nil {
		return fmt.Errorf("read the packets ring: %w", err)
	}
	return nil
}

func (r *Reader) readEvent() error {
	if r.hasEvent {
		return nil
	}
	var err error
	r.hasEvent, err = read(r.events, &r.event)
	if err == nil && r.hasEvent {
		r.nextPosition, err = decodeEvent(r.event.RawSample, &r.next)
	}
	if err != nil {
		return fmt.Errorf("read the events ring: %w", err)
	}
	return nil
}

// read takes a record if there is one.
func read(ring *ringbuf.Reader, rec *ringbuf.Record) (bool, error) {
	if ring.AvailableBytes() == 0 {
		return false, nil
	}
	err := ring.ReadInto(rec)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil // only discarded records
	}
	return err == nil, err
}

// wait sleeps until a ring has something, Wake is called, or the deadline.
func (r *Reader) wait() error {
	timeout := -1
	if !r.deadline.IsZero() {
		left := time.Until(r.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timeout = int((left + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(r.epoll, r.ready[:], timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for the tap: %w", err)
	}
	for _, ready := range r.ready[:max(n, 0)] {
		if int(ready.Fd) == r.wake {
			// woken says whether this Wake was answered already.
			var counter [8]byte
			_, _ = unix.Read(r.wake, counter[:])
		}
	}
	return nil
}

// Close releases the rings. No Next or Wake may run.
func (r *Reader) Close() error {
	var errs []error
	for _, ring := range []*ringbuf.Reader{r.packets, r.events} {
		if ring != nil {
			errs = append(errs, ring.Close())
		}
	}
	for _, fd := range []int{r.epoll, r.wake} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

package bpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lag is how long what nobody is in a hurry for may lie in the rings: the
// programs wake the reader only for an answer that can end a login and for what
// asks for it, and when a ring is a quarter full.
const lag = time.Second

// Reader reads the two rings of a Tap as one stream: a connection's Opened
// comes before its packets, and its Closed after them, also one that found no room in the
// rings. Only one goroutine may call its methods, except Wake.
type Reader struct {
	packets, events *ring
	untold          *ebpf.Map // the queue of ends that found no room
	page            []byte    // mapping of notes
	notes           *tapNote
	// poll is an epoll instance that the runtime's own poller waits for: a
	// thread that is woken there finds its work without waking others.
	poll  *os.File
	raw   syscall.RawConn
	ready func(fd uintptr) bool
	// asleep is ready for one who goes on to sleep if it is false: who woke him
	// took his note, and another producer must find it again.
	asleep func(fd uintptr) bool
	// alarm is when the poller gives up, zero if that is not known.
	alarm    time.Time
	crowd    crowd
	woken    atomic.Bool
	deadline time.Time
	lag      time.Duration

	// packet was read from its ring and not handed on yet; so was next, an
	// event, if hasEvent.
	packet       []byte
	hasEvent     bool
	next         Record
	nextPosition uint64
	// ends were taken out of the queue, and not handed on yet: they come behind what was
	// in the rings when they were, up to endsAt.
	ends   []tapEnd
	endsAt struct{ packets, events uint64 }
	// position is where packet, or if there is none the next one, starts in
	// the packets ring.
	position uint64
}

func newReader(packets, events, untold, notes *ebpf.Map) (*Reader, error) {
	r := &Reader{untold: untold, lag: lag}
	r.ready = func(uintptr) bool { return r.packets.pending() == filled || r.events.pending() == filled }
	r.asleep = func(fd uintptr) bool {
		if r.ready(fd) {
			return true
		}
		atomic.StoreUint32(&r.notes.Sleeps, 1)
		return r.ready(fd)
	}
	if err := r.open(packets, events, notes); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Reader) open(packets, events, notes *ebpf.Map) (err error) {
	if r.packets, err = openRing(packets); err != nil {
		return fmt.Errorf("open the packets ring: %w", err)
	}
	if r.events, err = openRing(events); err != nil {
		return fmt.Errorf("open the events ring: %w", err)
	}
	r.page, err = unix.Mmap(notes.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the reader's state: %w", err)
	}
	r.notes = (*tapNote)(unsafe.Pointer(&r.page[0]))
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, m := range []*ebpf.Map{packets, events} {
		// By edges: what lies in the rings is known without asking.
		err = errors.Join(err, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, m.FD(), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}))
	}
	// The runtime polls what does not block.
	if err = errors.Join(err, unix.SetNonblock(epoll, true)); err != nil {
		return errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(epoll))
	}
	r.poll = os.NewFile(uintptr(epoll), "epoll")
	if r.raw, err = r.poll.SyscallConn(); err != nil {
		return fmt.Errorf("poll the rings: %w", err)
	}
	return nil
}

// SetDeadline bounds how long Next waits; the zero time removes the bound.
func (r *Reader) SetDeadline(t time.Time) { r.deadline = t }

// Wake makes the waiting Next, or the next one, return os.ErrDeadlineExceeded
// at once. Any goroutine may call it until Close.
func (r *Reader) Wake() {
	r.woken.Store(true)
	_ = r.poll.SetReadDeadline(time.Unix(1, 0)) // it fails if the reader is closed
}

// Crowded says that so much is to be read that who reads had better do things
// together for several records. It is false when there is none left.
func (r *Reader) Crowded() bool {
	return r.crowd.crowded && (r.packet != nil || r.hasEvent || r.ready(0))
}

// Next waits for a record. It returns os.ErrDeadlineExceeded when there is none
// at the deadline, or after Wake. rec is overwritten by the next call.
func (r *Reader) Next(rec *Record) error {
	// The records of the last call are no longer in use.
	if r.packet == nil {
		r.packets.release()
	}
	for {
		if r.woken.Load() && r.woken.Swap(false) {
			r.alarm = time.Time{} // Wake set it off
			return os.ErrDeadlineExceeded
		}
		// The packet before the event: what was opened before this packet
		// is then in the events ring.
		if r.packet == nil {
			r.packet = r.packets.next()
		}
		if err := r.readEvent(); err != nil {
			return err
		}
		switch {
		case r.endsDue():
			*rec = Record{Kind: Closed, Cookie: r.ends[0].Cookie, Time: r.ends[0].Time}
			r.ends = r.ends[1:]
			r.crowd.records++
			return nil
		case r.hasEvent && r.nextPosition <= r.position:
			*rec = r.next
			r.hasEvent = false
			r.crowd.records++
			return nil
		case r.packet != nil:
			raw := r.packet
			r.packet = nil
			r.position += ringBytes(len(raw))
			r.crowd.records++
			return decodePacket(raw, rec)
		case r.hasEvent:
			// Packets came between the two reads.
			continue
		}
		if err := r.wait(); err != nil {
			return err
		}
	}
}

// readEvent decodes the next event, which copies it.
func (r *Reader) readEvent() (err error) {
	if r.hasEvent {
		return nil
	}
	raw := r.events.next()
	if raw == nil {
		return nil
	}
	r.hasEvent = true
	r.nextPosition, err = decodeEvent(raw, &r.next)
	r.events.release()
	if err != nil {
		return fmt.Errorf("read the events ring: %w", err)
	}
	return nil
}

// endsDue reports whether an end that found no room is the next to be handed on. To wait
// until the rings are empty would be too long, in a storm that keeps them full, and too
// short, where a record is not filled yet: behind it an Opened can stand.
func (r *Reader) endsDue() bool {
	if len(r.ends) == 0 {
		if atomic.LoadUint32(&r.notes.Untold) == 0 {
			return false
		}
		r.takeEnds()
	}
	packets, events := r.packets.at, r.events.at
	if r.packet != nil {
		packets -= ringBytes(len(r.packet))
	}
	if r.hasEvent {
		events -= ringBytes(eventSize)
	}
	return len(r.ends) > 0 && packets >= r.endsAt.packets && events >= r.endsAt.events
}

// takeEnds empties the queue of ends. What cannot be taken out, for want of memory say,
// stays there until the next time.
func (r *Reader) takeEnds() {
	atomic.StoreUint32(&r.notes.Untold, 0) // before it is looked at: what comes behind notes that again
	var end tapEnd
	err := r.untold.LookupAndDelete(nil, &end)
	for ; err == nil; err = r.untold.LookupAndDelete(nil, &end) {
		r.ends = append(r.ends, end)
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		atomic.StoreUint32(&r.notes.Untold, 1)
	}
	r.endsAt.packets, r.endsAt.events = atomic.LoadUint64(r.packets.written), atomic.LoadUint64(r.events.written)
}

// wait sleeps until the programs, or Wake, wake it, or the deadline, or until
// there may be something that nobody was in a hurry for.
func (r *Reader) wait() error {
	now := time.Now()
	until := now.Add(r.lag)
	if !r.deadline.IsZero() && r.deadline.Before(until) {
		until = r.deadline
	}
	if !until.After(now) {
		return os.ErrDeadlineExceeded
	}
	if r.crowd.nap(now) {
		nap()
		return nil
	}
	// From here on producers wake this thread. What they submitted before they
	// could know is seen here.
	atomic.StoreUint32(&r.notes.Sleeps, 1)
	defer atomic.StoreUint32(&r.notes.Sleeps, 0)
	if r.packets.pending() == unfilled || r.events.pending() == unfilled {
		// It may hold up others whose producers have woken us already.
		until = now.Add(time.Millisecond)
	}
	if err := r.setAlarm(now, until); err != nil {
		return err
	}
	if r.woken.Load() {
		return nil // before the alarm was set
	}
	err := r.raw.Read(r.asleep)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		r.alarm = time.Time{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for the tap: %w", err)
	}
	return nil
}

// crowd tells whether so much is to be read that the reader had better look
// about by itself now and then: to be woken costs more than to read what a login
// leaves in the rings.
type crowd struct {
	since   time.Time // begin of the present look
	records int       // read since then
	crowded bool
}

const (
	napTime   = 3 * time.Millisecond
	crowdLook = 10 * time.Millisecond
	// So many records in one look begin a crowd, some 3,000 logins a second,
	// and so few end it.
	crowdBegins, crowdEnds = 300, 150
)

// nap says whether to sleep for a moment without being woken.
func (c *crowd) nap(now time.Time) bool {
	if took := now.Sub(c.since); took >= crowdLook {
		perLook := int(int64(c.records) * int64(crowdLook) / int64(took))
		c.crowded = perLook >= crowdBegins || c.crowded && perLook > crowdEnds
		c.since, c.records = now, 0
	}
	return c.crowded
}

// nap sleeps for napTime; a signal ends it. The runtime is not told: it would wake
// another thread to watch this one. With one processor it must be, or nobody else
// would run meanwhile.
func nap() {
	t := unix.NsecToTimespec(int64(napTime))
	if runtime.GOMAXPROCS(0) == 1 {
		_ = unix.Nanosleep(&t, nil)
		return
	}
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

// setAlarm lets the poller give up at until, or somewhat earlier: one that is
// set need not be set again.
func (r *Reader) setAlarm(now, until time.Time) error {
	if r.alarm.After(now) && !r.alarm.After(until) {
		return nil
	}
	r.alarm = until
	if err := r.poll.SetReadDeadline(until); err != nil {
		return fmt.Errorf("set the poller's deadline: %w", err)
	}
	return nil
}

// Close releases the rings. No Next or Wake may run.
func (r *Reader) Close() error {
	var errs []error
	for _, ring := range []*ring{r.packets, r.events} {
		if ring != nil {
			errs = append(errs, ring.close())
		}
	}
	if r.page != nil {
		errs = append(errs, unix.Munmap(r.page))
	}
	if r.poll != nil {
		errs = append(errs, r.poll.Close())
	}
	return errors.Join(errs...)
}

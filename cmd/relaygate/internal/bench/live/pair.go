package live

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The ports of pairs: the daemon watches pairPort.
const (
	pairPort      = 1110
	otherPairPort = 8111
)

// pair is both ends of a connection between the two machines, of one thread: a
// segment that is sent has arrived when the call returns, so that nobody waits,
// or is woken here or there.
type pair struct{ client, server int }

// openPair connects to a port of the server's machine and logs in.
func (m *measure) openPair(port int) (p pair, err error) {
	var listener int
	err = m.serverNS.Do(func() (err error) { listener, err = listen(port); return err })
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, unix.Close(listener)) }()
	from := clientAddr(m.addresses(1))
	err = m.clientNS.Do(func() (err error) { p.client, err = dial(from, port); return err })
	if err != nil {
		return p, err
	}
	if p.server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return p, errors.Join(fmt.Errorf("accept: %w", err), unix.Close(p.client))
	}
	buf := make([]byte, 512)
	for i, said := range []string{"+OK ready\r\n", "USER user\r\n", "+OK\r\n", "PASS " + password + "\r\n", positive} {
		from, to := p.server, p.client
		if i%2 == 1 {
			from, to = to, from
		}
		if err := pass(from, to, buf, said); err != nil {
			return p, errors.Join(fmt.Errorf("log in: %w", err), p.close())
		}
	}
	return p, nil
}

func (p pair) close() error { return errors.Join(unix.Close(p.client), unix.Close(p.server)) }

// pass sends what is said and receives it at the other end.
func pass(from, to int, buf []byte, said string) error {
	if err := send(from, said); err != nil {
		return err
	}
	for left := len(said); left > 0; {
		n, err := unix.Read(to, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("read: %d bytes, %w", n, err)
		}
		left -= n
	}
	return nil
}

// exchange has n commands answered. It returns the processor time of the
// thread, which the caller has locked.
func (p pair) exchange(n int) (time.Duration, error) {
	buf := make([]byte, 512)
	before, err := threadTime()
	if err != nil {
		return 0, err
	}
	for range n {
		if err := errors.Join(pass(p.client, p.server, buf, "NOOP\r\n"), pass(p.server, p.client, buf, "+OK\r\n")); err != nil {
			return 0, err
		}
	}
	after, err := threadTime()
	return after - before, err
}

// fetch passes at least size bytes of mail, a segment's bytes at a time, each of
// which is acknowledged. Nothing is copied: what that takes varies from moment to
// moment with what else uses the machine's memory, far more than by what is
// measured here.
func (p pair) fetch(size, segment int) (time.Duration, error) {
	fd, err := unix.MemfdCreate("mail", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("make a mail: %w", err)
	}
	mail := fileOf(fd)
	defer mail.Close() //nolint:errcheck // it is gone with that
	if _, err := mail.Write(mailLines[:segment]); err != nil {
		return 0, fmt.Errorf("make a mail: %w", err)
	}
	before, err := threadTime()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, segment) // stays untouched
	for ; size > 0; size -= len(buf) {
		var from int64
		if n, err := unix.Sendfile(p.server, fd, &from, segment); err != nil || n < segment {
			return 0, fmt.Errorf("send mail: %d bytes, %w", n, err)
		}
		for left := len(buf); left > 0; {
			n, _, err := unix.Recvfrom(p.client, buf[:left], unix.MSG_TRUNC)
			if err != nil || n == 0 {
				return 0, fmt.Errorf("read mail: %d bytes, %w", n, err)
			}
			left -= n
		}
	}
	after, err := threadTime()
	return after - before, err
}

// threadTime is the processor time of the calling thread, in user space and in
// the kernel, with what interrupts did meanwhile.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

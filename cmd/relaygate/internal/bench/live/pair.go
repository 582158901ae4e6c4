package live

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
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
func (m *measure) openPair(port int) pair {
	var listener int
	must.Do(m.serverNS.Do(func() (err error) { listener, err = listen(port); return err }))
	defer m.End(func() error { return unix.Close(listener) })
	var p pair
	from := clientAddr(m.addresses(1))
	must.Do(m.clientNS.Do(func() (err error) { p.client, err = dial(from, port); return err }))
	var err error
	p.server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must.Do(err)
	buf := make([]byte, 512)
	for i, said := range []string{"+OK ready\r\n", "USER user\r\n", "+OK\r\n", "PASS " + password + "\r\n", positive} {
		from, to := p.server, p.client
		if i%2 == 1 {
			from, to = to, from
		}
		pass(from, to, buf, said)
	}
	return p
}

func (p pair) close() error { return errors.Join(unix.Close(p.client), unix.Close(p.server)) }

// pass sends what is said and receives it at the other end.
func pass(from, to int, buf []byte, said string) {
	must.Do(send(from, said))
	for left := len(said); left > 0; {
		n, err := unix.Read(to, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		must.Do(err)
		left -= n
	}
}

// exchange has n commands answered. It returns the processor time of the
// thread, which the caller has locked.
func (p pair) exchange(n int) time.Duration {
	buf := make([]byte, 512)
	before := threadTime()
	for range n {
		pass(p.client, p.server, buf, "NOOP\r\n")
		pass(p.server, p.client, buf, "+OK\r\n")
	}
	return threadTime() - before
}

// fetch passes at least size bytes of mail, a segment's bytes at a time, each of
// which is acknowledged. Nothing is copied: what that takes varies from moment to
// moment with what else uses the machine's memory, far more than by what is
// measured here.
func (p pair) fetch(size, segment int) time.Duration {
	fd := must.Get(unix.MemfdCreate("mail", unix.MFD_CLOEXEC))
	mail := fileOf(fd)
	defer mail.Close() //nolint:errcheck // it is gone with that
	must.Get(mail.Write(mailLines[:segment]))
	before := threadTime()
	buf := make([]byte, segment) // stays untouched
	for ; size > 0; size -= len(buf) {
		var from int64
		if n := must.Get(unix.Sendfile(p.server, fd, &from, segment)); n < segment {
			must.Do(io.ErrShortWrite)
		}
		for left := len(buf); left > 0; {
			n, _, err := unix.Recvfrom(p.client, buf[:left], unix.MSG_TRUNC)
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			must.Do(err)
			left -= n
		}
	}
	return threadTime() - before
}

// threadTime is the processor time of the calling thread, in user space and in
// the kernel, with what interrupts did meanwhile.
func threadTime() time.Duration {
	var t unix.Timespec
	must.Do(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t))
	return time.Duration(t.Nano())
}

package live

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// fileOf wraps a descriptor, which it then owns.
func fileOf(fd int) *os.File { return os.NewFile(uintptr(fd), "socket") }

// client is the state of a client process: what it left open.
type client struct {
	open int // the connection of open, exchange, fetch and leave
	idle []int
}

// newClient is the clients' machine.
func newClient() func(Task) Result {
	runtime.GOMAXPROCS(sessions)
	c := &client{}
	verbs := map[string]func(Task) Result{
		"login": c.logins, "open": c.openOne, "exchange": c.exchange, "fetch": c.fetch, "leave": c.leave,
		"stay": c.stay, "go": c.goAll,
	}
	return func(t Task) Result {
		do, ok := verbs[t.Verb]
		if !ok {
			must.Do(fmt.Errorf("no client can %q", t.Verb))
		}
		start := time.Now()
		r := do(t)
		r.Took = time.Since(start)
		return r
	}
}

// dial connects from a client's address.
func dial(from netip.Addr, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: serverAddr.As4(), Port: port})
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("connect from %s to port %d: %w", from, port, err), unix.Close(fd))
	}
	return fd, nil
}

// line reads one line of an answer, into buf.
func line(fd int, buf []byte) ([]byte, error) {
	have := 0
	for {
		n, err := unix.Read(fd, buf[have:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, errors.New("the server left")
		}
		have += n
		if buf[have-1] == '\n' {
			return buf[:have], nil
		}
	}
}

// say sends a command and reads the answer's line.
func say(fd int, buf []byte, command string) ([]byte, error) {
	if err := send(fd, command); err != nil {
		return nil, err
	}
	return line(fd, buf)
}

// login connects as the i-th client and logs in.
func login(i, port int, word string, buf []byte) (fd int, ok bool, err error) {
	if fd, err = dial(clientAddr(i), port); err != nil {
		return 0, false, err
	}
	var last []byte
	if _, err = line(fd, buf); err == nil {
		_, err = say(fd, buf, "USER user"+strconv.Itoa(i)+"\r\n")
	}
	if err == nil {
		last, err = say(fd, buf, "PASS "+word+"\r\n")
	}
	if err != nil {
		return 0, false, errors.Join(fmt.Errorf("client %d: %w", i, err), unix.Close(fd))
	}
	return fd, bytes.HasPrefix(last, []byte("+OK")), nil
}

// wrong says whether the i-th login of a Task has a wrong password.
func (t *Task) wrong(i int) bool { return t.Wrong > 0 && i%t.Wrong == t.Wrong-1 }

// logins logs in again and again, and knocks at port 25 where Wait says so.
func (c *client) logins(t Task) Result {
	var next, done, passed atomic.Int64
	var workers sync.WaitGroup
	start := time.Now()
	failed := make(chan error, max(t.Workers, 1))
	for range max(t.Workers, 1) {
		workers.Go(func() {
			buf := make([]byte, 512)
			for {
				i := int(next.Add(1) - 1)
				if t.Count > 0 && i >= t.Count || t.For > 0 && time.Since(start) >= t.For {
					return
				}
				time.Sleep(time.Until(start.Add(time.Duration(i) * t.Gap))) //nolint:forbidigo // the pace of the load
				in, err := turn(&t, i, buf)
				if err != nil {
					failed <- err
					return
				}
				done.Add(1)
				if in {
					passed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	must.Do(<-failed)
	return Result{Done: int(done.Load()), Passed: int(passed.Load())}
}

// turn is one login, and the knock behind it.
func turn(t *Task, i int, buf []byte) (passed bool, err error) {
	word := password
	if t.wrong(i) {
		word = "wrong"
	}
	fd, ok, err := login(t.First+i, mailPort, word, buf)
	if err != nil {
		return false, err
	}
	read := time.Now()
	if ok == t.wrong(i) {
		err = fmt.Errorf("client %d: password %s, and login %v", t.First+i, word, ok)
	}
	if err == nil && t.Wait > 0 {
		waitUntil(read.Add(t.Wait))
		passed, err = knock(t.First + i)
	}
	return passed, errors.Join(err, unix.Close(fd))
}

// knock says whether port 25 lets the i-th client in.
func knock(i int) (bool, error) {
	fd, err := dial(clientAddr(i), smtpPort)
	if errors.Is(err, unix.ECONNREFUSED) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, unix.Close(fd)
}

// waitUntil sleeps, and counts the last bit on its fingers: a timer is late by
// more than is measured here.
func waitUntil(t time.Time) {
	const late = 200 * time.Microsecond
	if left := time.Until(t); left > late {
		request := unix.NsecToTimespec(int64(left - late))
		_ = unix.Nanosleep(&request, nil) // woken early, it waits below
	}
	for time.Until(t) > 0 { //nolint:revive // it waits
	}
}

// openOne logs in and stays connected. On otherPort it is the same, and nobody
// sees it.
func (c *client) openOne(t Task) Result {
	fd, ok, err := login(t.First, t.Port, password, make([]byte, 512))
	must.Do(err)
	if c.open = fd; !ok {
		must.Do(errors.New("the login failed"))
	}
	return Result{}
}

func (c *client) leave(Task) Result {
	must.Do(unix.Close(c.open))
	return Result{}
}

// exchange sends commands and waits for each answer. Both ends stay on one
// processor: who wakes up where is then no matter of luck.
func (c *client) exchange(t Task) Result {
	defer must.Get(pin())()
	buf := make([]byte, 512)
	must.Get(say(c.open, buf, "PIN\r\n"))
	for range t.Count {
		must.Get(say(c.open, buf, "NOOP\r\n"))
	}
	return Result{Done: t.Count}
}

// fetch reads a mail of Size bytes, Count times.
func (c *client) fetch(t Task) Result {
	buf := make([]byte, 256<<10)
	for range t.Count {
		must.Do(send(c.open, "RETR "+strconv.Itoa(t.Size)+"\r\n"))
		for left := answerSize(t.Size); left > 0; {
			n, err := unix.Read(c.open, buf)
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			must.Do(err)
			left -= n
		}
	}
	return Result{Done: t.Count}
}

// stay opens connections that stay open.
func (c *client) stay(t Task) Result {
	buf := make([]byte, 512)
	for i := range t.Count {
		fd := must.Get(dial(clientAddr(t.First+i), idlePort))
		c.idle = append(c.idle, fd)
		must.Get(line(fd, buf))
	}
	return Result{Done: len(c.idle)}
}

// goAll closes the connections of stay.
func (c *client) goAll(Task) Result {
	for _, fd := range c.idle {
		must.Do(unix.Close(fd))
	}
	c.idle = nil
	return Result{}
}

package live

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// The ports of the bare mail server. What it says on otherPort it says on
// mailPort too, but nobody watches there.
const (
	mailPort  = 110
	idlePort  = 143
	smtpPort  = 25
	otherPort = 8110
)

// password is everybody's, and answered with positive.
const (
	password = "right"
	positive = "+OK logged in\r\n"
)

// sessions is how many connections of a port are served at the same time: each
// has a thread that does nothing else, as there is nothing faster.
const sessions = 64

// newServer is the bare mail server: POP3 as far as it takes to log in and to
// read mail, and a greeting on port 25. Its only Task is to log.
func newServer() func(Task) Result {
	runtime.GOMAXPROCS(sessions)
	for port, serve := range map[int]func(int) error{
		mailPort: servePOP3, otherPort: servePOP3, smtpPort: serveSMTP,
	} {
		fd := must.Get(listen(port))
		for range sessions {
			go accept(fd, serve)
		}
	}
	// Connections that only stay open cost no thread.
	go acceptIdle(must.Get(listen(idlePort)))
	return func(t Task) Result {
		if t.Verb != "log" {
			must.Do(fmt.Errorf("no server can %q", t.Verb))
		}
		must.Do(logTo(t.File))
		return Result{}
	}
}

func listen(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: port}),
		unix.Listen(fd, 4096))
	if err != nil {
		return 0, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}

// accept serves one connection after the other.
func accept(listener int, serve func(int) error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			continue // the client left
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = serve(fd) // it ends with the connection
		_ = unix.Close(fd)
	}
}

// acceptIdle greets and lets the connections be until the clients leave.
func acceptIdle(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			continue
		}
		go func() {
			_, _ = unix.Write(fd, []byte("* OK ready\r\n"))
			f, err := net.FileConn(fileOf(fd))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, f)
			_ = f.Close()
		}()
	}
}

func serveSMTP(fd int) error {
	if err := send(fd, "220 ready\r\n"); err != nil {
		return err
	}
	_, err := unix.Read(fd, make([]byte, 1))
	return err
}

// servePOP3 answers (RFC 1939). PIN keeps the connection's thread on the first
// processor.
func servePOP3(fd int) error {
	if err := send(fd, "+OK ready\r\n"); err != nil {
		return err
	}
	p := pop3{fd: fd}
	buf, have := make([]byte, 512), 0
	for {
		n, err := unix.Read(fd, buf[have:])
		if err != nil || n == 0 {
			return err
		}
		have += n
		for {
			line, rest, ok := bytes.Cut(buf[:have], []byte("\r\n"))
			if !ok {
				break
			}
			if err := p.answer(line); err != nil {
				return err
			}
			have = copy(buf, rest)
		}
	}
}

// pop3 is a connection to the POP3 port.
type pop3 struct {
	fd   int
	user []byte // of the last USER
}

func (p *pop3) answer(line []byte) error {
	fd := p.fd
	verb, arg, _ := bytes.Cut(line, []byte(" "))
	switch string(verb) {
	case "USER":
		p.user = append(p.user[:0], arg...)
		return send(fd, "+OK\r\n")
	case "PASS":
		if string(arg) != password {
			return send(fd, "-ERR no\r\n")
		}
		// Before the answer: whoever tails the log can be ahead of it.
		return errors.Join(noteLogin(fd, p.user), send(fd, positive))
	case "NOOP":
		return send(fd, "+OK\r\n")
	case "RETR":
		size, err := strconv.Atoi(string(arg))
		if err != nil {
			return fmt.Errorf("size of a mail: %w", err)
		}
		return sendMail(fd, size)
	case "PIN":
		unpin, err := pin()
		if err != nil {
			return err
		}
		defer unpin()
		return errors.Join(send(fd, "+OK\r\n"), echo(fd))
	}
	return send(fd, "-ERR what\r\n")
}

// echo answers every read with an answer, until the client leaves.
func echo(fd int) error {
	buf := make([]byte, 64)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return err
		}
		if err := send(fd, "+OK\r\n"); err != nil {
			return err
		}
	}
}

// pin keeps the calling goroutine on one thread and that on the first processor
// that it may use, until unpin.
func pin() (unpin func(), err error) {
	runtime.LockOSThread()
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return nil, fmt.Errorf("ask for the processors: %w", err)
	}
	for cpu := range 1024 {
		if may.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("stay on a processor: %w", err)
	}
	return func() {
		if unix.SchedSetaffinity(0, &may) == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}, nil
}

// mailLines are what a mail consists of.
var mailLines = bytes.Repeat([]byte("0123456789012345678901234567890123456789012345678901234567890123456789\r\n"), 1<<10)

// sendMail sends at least size bytes of mail.
func sendMail(fd, size int) error {
	if err := send(fd, "+OK\r\n"); err != nil {
		return err
	}
	for ; size > 0; size -= len(mailLines) {
		if err := sendBytes(fd, mailLines); err != nil {
			return err
		}
	}
	return send(fd, ".\r\n")
}

// answerSize is what sendMail sends, in bytes.
func answerSize(size int) int {
	lines := (size + len(mailLines) - 1) / len(mailLines)
	return len("+OK\r\n") + lines*len(mailLines) + len(".\r\n")
}

func send(fd int, s string) error { return sendBytes(fd, []byte(s)) }

// sendBytes writes all of b.
func sendBytes(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

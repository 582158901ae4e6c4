package control

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asNobody does what another user would do, who may open the socket.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		do() // who is nobody's root
		return
	}
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine
		const keepCapabilities, nobody, asItIs = 1 << 2, 65534, ^uintptr(0)
		err := unix.Prctl(unix.PR_SET_SECUREBITS, keepCapabilities, 0, 0, 0)
		if err == nil {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, asItIs, nobody, asItIs); errno != 0 {
				err = errno
			}
		}
		if err == nil {
			do()
		}
		ended <- err
	}()
	must(t, <-ended)
}

// Connections that somebody leaves open take no more than their share of the descriptors,
// and do not keep root away.
func TestClientsAreBounded(t *testing.T) {
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: before.Max}))
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	c := serve(t, &fakeDaemon{}, NewHub())
	var open []net.Conn
	idle := func() (conn net.Conn) {
		var err error
		asNobody(t, func() { conn, err = net.Dial("unix", c.socket) })
		must(t, err)
		open = append(open, conn)
		return conn
	}
	for range maxClients() {
		idle()
	}
	more := idle()
	must(t, more.SetReadDeadline(time.Now().Add(readTimeout/2)))
	if _, err := more.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more ends with %v, want that it is closed at once", err)
	}
	if _, err := c.Status(t.Context()); err != nil && os.Geteuid() == 0 {
		t.Errorf("beside them root is not answered: %v", err)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	for begin := time.Now(); ; { // until the server has seen that
		_, err := c.Status(t.Context())
		if err == nil {
			break
		}
		if time.Since(begin) > readTimeout {
			t.Fatalf("behind them nobody is answered: %v", err)
		}
	}
}

// Root is let in while very many connections of others are on their way to be closed, and
// no more than a few times.
func TestRefusedClientsTakeNoRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, who has room of its own")
	}
	const most = 2
	bound := Bound(most)
	enters := func(c net.Conn) bool {
		bound(c, http.StateNew)
		return !errors.Is(c.SetDeadline(time.Time{}), net.ErrClosed) && !errors.Is(c.SetDeadline(time.Time{}), io.ErrClosedPipe)
	}
	stranger := func() net.Conn { c, _ := net.Pipe(); return c }
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	defer l.Close()
	root := func() net.Conn {
		client, err := net.Dial("unix", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = client.Close() })
		server, err := l.Accept()
		must(t, err)
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	first := stranger()
	for i, c := range append([]net.Conn{first}, stranger(), stranger(), stranger()) {
		if got := enters(c); got != (i < most) {
			t.Errorf("stranger %d is let in: %v", i, got)
		}
	}
	for range 2 * forRoot {
		enters(stranger())
	}
	for i := range forRoot + 2 {
		if got := enters(root()); got != (i < forRoot) {
			t.Errorf("root's connection %d is let in: %v", i, got)
		}
	}
	bound(first, http.StateClosed)
	if enters(stranger()) {
		t.Error("a stranger is let in where only root has room")
	}
}

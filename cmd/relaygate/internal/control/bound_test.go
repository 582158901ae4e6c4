package control

import (
	"errors"
	"io"
	"net"
	"os"
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
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Connections that somebody leaves open take no more than their share of the descriptors,
// and do not keep root away.
func TestClientsAreBounded(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	c := serve(t, &fakeDaemon{}, NewHub())
	var open []net.Conn
	idle := func() (conn net.Conn) {
		var err error
		asNobody(t, func() { conn, err = net.Dial("unix", c.socket) })
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		return conn
	}
	for range maxClients() {
		idle()
	}
	more := idle()
	if err := more.SetReadDeadline(time.Now().Add(readTimeout / 2)); err != nil {
		t.Fatal(err)
	}
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

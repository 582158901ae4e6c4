package bpftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
)

// As runs fn inside ns with the file system uid of a user, who then owns the
// sockets that fn makes.
func As(t testing.TB, ns *netns.Namespace, uid int, fn func() error) {
	t.Helper()
	Do(t, ns, func() error {
		if err := unix.Setfsuid(uid); err != nil {
			return fmt.Errorf("take the uid %d: %w", uid, err)
		}
		return fn()
	})
}

// Listen listens inside ns, as root and with plain TCP (Go's default is
// Multipath TCP), until the test ends.
func Listen(t testing.TB, ns *netns.Namespace, network, addr string) net.Listener {
	t.Helper()
	return ListenAs(t, ns, 0, network, addr)
}

// ListenAs is Listen for a socket that belongs to another user.
func ListenAs(t testing.TB, ns *netns.Namespace, uid int, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	As(t, ns, uid, func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	t.Cleanup(func() { _ = l.Close() }) // the test may have closed it
	return l
}

// Dial connects inside ns, with plain TCP, until the test ends.
func Dial(t testing.TB, ns *netns.Namespace, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	Do(t, ns, func() (err error) {
		d := net.Dialer{Timeout: 20 * time.Second}
		d.SetMultipathTCP(false)
		c, err = d.Dial("tcp", addr)
		return err
	})
	t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	return c
}

// Reuse is the Control of a net.Dialer that takes a port which was used a moment ago.
func Reuse(_, _ string, raw syscall.RawConn) (err error) {
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return err
}

// Vanish closes a socket without a word, as a host that loses its power does.
func Vanish(t testing.TB, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	Must(t, err)
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1) })
	Must(t, errors.Join(err, failed, c.Close()))
}

// Accept takes the next connection, until the test ends.
func Accept(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	Must(t, err)
	t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	return c
}

// Connect makes a connection inside ns, by a listener of its own.
func Connect(t testing.TB, ns *netns.Namespace, addr string) (client, server net.Conn) {
	t.Helper()
	l := Listen(t, ns, "tcp", addr)
	return Dial(t, ns, addr), Accept(t, l)
}

// Send writes s at one end and waits until it has come out at the other.
func Send(t testing.TB, from, to net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(from, s); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != s {
		t.Fatalf("received %q, want %q", got, s)
	}
}

// Close closes what the test is done with and fails on an error.
func Close(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close %T: %v", c, err)
	}
}

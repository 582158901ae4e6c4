package nft

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

func openCutter(t testing.TB, ns *netns.Namespace) *Cutter {
	t.Helper()
	c, err := OpenCutter(ns.FD())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// reuse lets a client take a port that it had a moment ago.
func reuse(_, _ string, raw syscall.RawConn) (err error) {
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return err
}

// silent accepts connections and sends nothing. It returns the server's ends.
func silent(t testing.TB, ns *netns.Namespace, port uint16) <-chan net.Conn {
	t.Helper()
	l := bpftest.Listen(t, ns, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	ends := make(chan net.Conn, 100)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			ends <- c
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return ends
}

// vanish closes a socket without a word, as a host that loses its power does.
func vanish(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_REPAIR, 1) })
	if err := errors.Join(err, failed, c.Close()); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the end of a connection.
func ends(t *testing.T, c net.Conn, within time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v, want a reset within %v", c.LocalAddr(), err, within)
	}
}

func TestCut(t *testing.T) {
	w := newWorld(t)
	accepted := silent(t, w.server, 25)
	relayed := silent(t, w.server, 925)
	g := openGate(t, inMode(Redirect, w.server))
	rebuild(t, g, minute(member4, member6)...)
	cutter := openCutter(t, w.server)
	tests := []struct {
		name     string
		from, to netip.Addr
		prefix   string
		server   <-chan net.Conn
	}{
		{"redirected", member4, server4, "192.0.2.2/32", relayed},
		{"redirected", member6, server6, "2001:db8::2/128", relayed},
		{"not redirected", strange4, server4, "192.0.2.8/30", accepted},
		{"not redirected", strange6, server6, "2001:db8::8/125", accepted},
		{"IPv4-mapped", strange4, server4, "::ffff:192.0.2.9/128", accepted},
	}
	for _, tt := range tests {
		t.Run(tt.name+" "+tt.from.String(), func(t *testing.T) {
			client := w.hold(t, netip.AddrPortFrom(tt.from, 0), netip.AddrPortFrom(tt.to, 25))
			bystander := w.hold(t, netip.AddrPortFrom(static4A, 0), netip.AddrPortFrom(server4, 25))
			server := <-tt.server
			other := <-relayed
			start := time.Now()
			sockets, entries, err := cutter.Cut(netip.MustParsePrefix(tt.prefix), []uint16{25, 925})
			if err != nil || sockets != 1 || entries != 1 {
				t.Errorf("got %d sockets, %d entries, %v, want one of each", sockets, entries, err)
			}
			ends(t, client, 5*time.Second)
			ends(t, server, 5*time.Second)
			if took := time.Since(start); took > 100*time.Millisecond {
				t.Errorf("it took %v", took)
			} else {
				t.Log(took)
			}
			bpftest.Send(t, bystander, other, "NOOP\r\n")
		})
	}
	if s, e, err := cutter.Cut(netip.MustParsePrefix("192.0.2.2/32"), []uint16{25, 925}); s+e != 0 || err != nil {
		t.Errorf("nothing to cut: got %d, %d, %v", s, e, err)
	}
	if _, _, err := cutter.Cut(netip.Prefix{}, []uint16{25}); err == nil {
		t.Error("no prefix: got no error")
	}
}

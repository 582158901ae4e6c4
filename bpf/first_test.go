package bpf_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// listenDeferred is for connections whose client has spoken (TCP_DEFER_ACCEPT, tcp(7)):
// its first segment with data ends the handshake.
func listenDeferred(t *testing.T, l net.Listener) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	must(t, err)
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5)
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// TestFirstSegment has the client's first data end the handshake.
func TestFirstSegment(t *testing.T) {
	for _, local := range []string{"127.0.0.1:61143", "[::1]:61143"} {
		for _, size := range []int{1, 500, 2200, 3900, 5000} {
			t.Run(fmt.Sprint(local, size), func(t *testing.T) {
				ns := bpftest.Namespace(t)
				tap := load(t, ns)
				l := bpftest.Listen(t, ns, "tcp", local)
				listenDeferred(t, l)
				c := bpftest.Dial(t, ns, local)
				hello := strings.Repeat("x", size)
				if _, err := io.WriteString(c, hello); err != nil {
					t.Fatal(err)
				}
				s := bpftest.Accept(t, l)
				patient(t, s)
				if _, err := io.ReadFull(s, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if size == 5000 { // longer than any ClientHello
					wantUnbelieved(t, tap, bpf.FastOpen)
					return
				}
				if _, err := io.WriteString(s, "+OK\r\n"); err != nil {
					t.Fatal(err)
				}
				got := collect(t, tap, func(r seen) bool { return r.Egress && r.payload != "" })
				var said string
				for _, r := range got {
					if r.Cookie != cookieOf(t, got, c) {
						t.Errorf("a record of another connection: %+v", r)
					}
					if r.Kind == bpf.Packet && !r.Egress {
						said += r.payload
					}
				}
				if said != hello {
					t.Errorf("the client said %d bytes, want %d", len(said), len(hello))
				}
			})
		}
	}
}

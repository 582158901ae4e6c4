package sockdiag

import (
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestAlive has connections on watched ports, on others and in another
// namespace, and tells those apart that are open.
func TestAlive(t *testing.T) {
	ns, other := bpftest.Namespace(t), bpftest.Namespace(t)
	foreign, h := held(t, other), held(t, ns)
	watched := []uint16{61144, 61146, 61147, 61148, 61149}
	tables := open(t, Options{Ports: watched, Owners: []uint32{0}, Netns: []*bpf.Netns{foreign, h}})

	want := make(map[uint64]netip.AddrPort) // cookie to client
	for _, test := range []struct {
		network, listen, dial string
		alive                 bool
	}{
		{"tcp4", "127.0.0.1:61144", "127.0.0.1:61144", true},
		{"tcp6", "[::1]:61146", "[::1]:61146", true},
		{"tcp", "[::]:61149", "127.0.0.1:61149", true},
		{"tcp4", "127.0.0.1:61148", "127.0.0.1:61148", true},
		{"tcp4", "127.0.0.1:61151", "127.0.0.1:61151", false}, // ports that are not watched
		{"tcp4", "127.0.0.1:61145", "127.0.0.1:61145", false},
		{"tcp4", "127.0.0.1:61150", "127.0.0.1:61150", false},
	} {
		l := bpftest.Listen(t, ns, test.network, test.listen)
		client := bpftest.Dial(t, ns, test.dial)
		server := bpftest.Accept(t, l)
		bpftest.Send(t, client, server, "a1 NOOP\r\n")
		if test.alive {
			want[cookie(t, server)] = client.LocalAddr().(*net.TCPAddr).AddrPort()
		}
	}
	closed := bpftest.Listen(t, ns, "tcp4", "127.0.0.1:61147")
	client := bpftest.Dial(t, ns, "127.0.0.1:61147")
	bpftest.Close(t, bpftest.Accept(t, closed))
	bpftest.Close(t, client)

	alive, err := tables.Alive()
	must(t, err)
	if len(alive) != len(want) {
		t.Errorf("%d sessions are alive, want %d: %+v", len(alive), len(want), alive)
	}
	for _, s := range alive {
		if s.Remote != want[s.Cookie] || s.Netns != h.ID() || s.Silent < 0 || s.Silent > time.Minute {
			t.Errorf("session %+v is not the one of %v", s, want[s.Cookie])
		}
	}
}

// TestUnended: the kernel still sees to a connection that either side has begun to close,
// and to one whose socket nobody has any more.
func TestUnended(t *testing.T) {
	ns := bpftest.Namespace(t)
	tables := open(t, Options{Ports: []uint16{61144}, Netns: []*bpf.Netns{held(t, ns)}})
	l := bpftest.Listen(t, ns, "tcp4", "127.0.0.1:61144")
	want := make(map[uint64]bool)
	dial := func() (client, server net.Conn) {
		client, server = bpftest.Dial(t, ns, "127.0.0.1:61144"), bpftest.Accept(t, l)
		want[cookie(t, server)] = true
		return client, server
	}
	dial()
	client, _ := dial()
	must(t, client.(*net.TCPConn).CloseWrite())
	_, server := dial()
	must(t, server.(*net.TCPConn).CloseWrite())
	_, server = dial()
	for err := error(nil); err == nil; { // more than the client takes
		must(t, server.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		_, err = server.Write(make([]byte, 1<<20))
	}
	bpftest.Close(t, server)
	client, server = dial()
	delete(want, cookie(t, server))
	bpftest.Close(t, server)
	bpftest.Close(t, client)

	if got, err := tables.Unended(); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func cookie(t *testing.T, c net.Conn) uint64 {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	must(t, err)
	var cookie uint64
	if cerr := raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return cookie
}

func TestSilence(t *testing.T) {
	info := make([]byte, 60)
	info[52], info[56] = 9, 7
	if d, ok := silence(info); !ok || d != 7*time.Millisecond {
		t.Errorf("silent for %v, %v; want the shorter of 9 and 7 ms", d, ok)
	}
	if d, ok := silence(info[:59]); ok {
		t.Errorf("read %v from a cut tcp_info", d)
	}
}

package bpf_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

const (
	addr   = "127.0.0.1:61143"
	nobody = 65534
)

// wantUnbelieved expects that the tap told of one connection, with this reason,
// and recorded nothing of it.
func wantUnbelieved(t *testing.T, tap *bpf.Tap, reason bpf.Reason) bpf.Record {
	t.Helper()
	got := rest(t, tap)
	if len(got) != 1 || got[0].Kind != bpf.Opened || got[0].Reason != reason {
		t.Fatalf("records are %+v, want one Opened because %v", got, reason)
	}
	if ok, err := tap.Has(got[0].Cookie); err != nil || ok {
		t.Errorf("Has is %v, %v: the connection is followed", ok, err)
	}
	return got[0].Record
}

// login plays a login that looks well.
func login(t testing.TB, client, server net.Conn) {
	t.Helper()
	bpftest.Send(t, server, client, "+OK ready\r\n")
	bpftest.Send(t, client, server, "USER alice\r\nPASS x\r\n")
	bpftest.Send(t, server, client, "+OK\r\n+OK logged in\r\n")
}

func TestListenerInForeignNamespace(t *testing.T) {
	ours, theirs := bpftest.Namespace(t), bpftest.Namespace(t)
	tap := load(t, ours)
	bpftest.Listen(t, ours, "tcp", addr)
	l := bpftest.Listen(t, theirs, "tcp", addr) // the very same address and port
	client := bpftest.Dial(t, theirs, addr)
	login(t, client, bpftest.Accept(t, l))
	opened := wantUnbelieved(t, tap, bpf.ForeignNetns)
	if want := held(t, theirs).ID(); opened.Netns != want {
		t.Errorf("namespace is %d, want %d", opened.Netns, want)
	}
}

func TestListenerOfUnprivilegedUser(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	l := bpftest.ListenAs(t, ns, nobody, "tcp", addr)
	client := bpftest.Dial(t, ns, addr)
	login(t, client, bpftest.Accept(t, l)) // root accepts
	if opened := wantUnbelieved(t, tap, bpf.ForeignOwner); opened.UID != nobody {
		t.Errorf("owner is %d, want %d", opened.UID, nobody)
	}
}

func TestListenerOfTrustedUser(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns, func(o *bpf.Options) { o.Owners = []uint32{nobody} })
	l := bpftest.ListenAs(t, ns, nobody, "tcp", addr)
	login(t, bpftest.Dial(t, ns, addr), bpftest.Accept(t, l))
	if got := rest(t, tap); len(got) == 0 || got[0].Reason != bpf.None || got[0].UID != nobody {
		t.Errorf("records are %+v, want a trusted connection of uid %d", got, nobody)
	}
}

// TestUnprivilegedAcceptor is a server such as Dovecot: root listens, another
// user accepts.
func TestUnprivilegedAcceptor(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	l := bpftest.Listen(t, ns, "tcp", addr)
	client := bpftest.Dial(t, ns, addr)
	var server net.Conn
	bpftest.As(t, ns, nobody, func() (err error) {
		server, err = l.Accept()
		return err
	})
	defer server.Close()
	login(t, client, server)
	got := rest(t, tap)
	if len(got) == 0 || got[0].Reason != bpf.None || got[0].UID != 0 {
		t.Errorf("records are %+v, want a trusted connection of uid 0", got)
	}
}

func TestOpenBeforeTheLoad(t *testing.T) {
	ns := bpftest.Namespace(t)
	client, server := bpftest.Connect(t, ns, addr)
	tap := load(t, ns)
	login(t, client, server)
	bpftest.Close(t, client)
	bpftest.Close(t, server)
	if got := rest(t, tap); len(got) != 0 {
		t.Errorf("records are %+v, want none", got)
	}
}

func TestMultipath(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	var l net.Listener
	var client net.Conn
	bpftest.Do(t, ns, func() (err error) {
		if _, err := os.Stat("/proc/sys/net/mptcp/enabled"); err != nil {
			return nil
		}
		var lc net.ListenConfig
		lc.SetMultipathTCP(true)
		if l, err = lc.Listen(context.Background(), "tcp", addr); err != nil {
			return err
		}
		d := net.Dialer{Timeout: 20 * time.Second}
		d.SetMultipathTCP(true)
		client, err = d.Dial("tcp", addr)
		return err
	})
	if l == nil {
		t.Log("this kernel has no Multipath TCP: nothing to forge")
		return
	}
	defer l.Close()
	defer client.Close()
	server := bpftest.Accept(t, l)
	if multipath, err := client.(*net.TCPConn).MultipathTCP(); err != nil || !multipath {
		t.Fatalf("the connection is not Multipath TCP: %v", err)
	}
	login(t, client, server)
	wantUnbelieved(t, tap, bpf.Multipath)
}

func TestFastOpen(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	const data = "USER alice\r\n"
	l, client := fastOpen(t, ns, data)
	defer l.Close()
	defer unix.Close(client)
	server := bpftest.Accept(t, l)
	got := make([]byte, len(data))
	if _, err := server.Read(got); err != nil || string(got) != data {
		t.Fatalf("server read %q, %v", got, err)
	}
	wantUnbelieved(t, tap, bpf.FastOpen)
}

// fastOpen is a listener that takes data with the handshake, and a client that sends some.
func fastOpen(t *testing.T, ns *netns.Namespace, data string) (l net.Listener, client int) {
	t.Helper()
	// Client and server, data without a cookie (ip-sysctl: tcp_fastopen).
	bpftest.Sysctl(t, ns, "1543", "ipv4/tcp_fastopen")
	bpftest.Do(t, ns, func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 5)
			})
		}}
		lc.SetMultipathTCP(false)
		if l, err = lc.Listen(context.Background(), "tcp", addr); err != nil {
			return err
		}
		client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		to := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
		return unix.Sendto(client, []byte(data), unix.MSG_FASTOPEN, to)
	})
	return l, client
}

// TestSpoofedFrames has a stranger on the wire send frames with the server's
// address, in both directions and for the connection's very ports.
func TestSpoofedFrames(t *testing.T) {
	host, outside := bpftest.Namespace(t), bpftest.Namespace(t)
	serverIP, clientIP := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.7")
	err := netns.Join(host, "lan", []netip.Prefix{netip.PrefixFrom(serverIP, 24)},
		outside, "wan", []netip.Prefix{netip.PrefixFrom(clientIP, 24)})
	must(t, err)
	tap := load(t, host)
	l := bpftest.Listen(t, host, "tcp", "192.0.2.1:61143")
	client := bpftest.Dial(t, outside, "192.0.2.1:61143")
	server := bpftest.Accept(t, l)
	bpftest.Send(t, server, client, "+OK ready\r\n")
	bpftest.Send(t, client, server, "USER alice\r\nPASS guess\r\n")

	from := netip.AddrPortFrom(serverIP, port)
	to := client.LocalAddr().(*net.TCPAddr).AddrPort()
	got := rest(t, tap)
	var next uint32 // the sequence number that the server would use now
	for _, r := range got {
		if r.Kind == bpf.Opened {
			next = r.ServerISN + uint32(len("+OK ready\r\n"))
		}
	}
	const forged = "+OK\r\n+OK forged\r\n"
	mac := bpftest.Interface(t, host, "lan").HardwareAddr
	forge := func(station net.HardwareAddr, from, to netip.AddrPort) []byte {
		return bpftest.Segment(t, station, from, to, layers.TCP{Seq: next, PSH: true, ACK: true}, forged)
	}
	bpftest.Inject(t, outside, "wan",
		forge(mac, from, to), forge(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from, to),
		forge(mac, from, from), forge(mac, to, from))
	bpftest.Send(t, server, client, "-ERR no\r\n")
	got = append(got, collect(t, tap, func(s seen) bool { return s.payload == "-ERR no\r\n" })...)
	arrived := false
	for _, r := range got {
		if !strings.Contains(r.payload, "forged") {
			continue
		}
		arrived = true
		if r.Egress {
			t.Errorf("the tap says that the host sent a forged packet: %+v", r)
		}
	}
	if !arrived {
		t.Error("no forged frame arrived at all: the test proves nothing")
	}
}

package bpf_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// What the client says, and what it makes of that when it has left: they are as long.
const (
	shown  = "a1 LOGIN alice guess\r\n"
	meant  = "a1 NOOP             \r\n"
	before = "a1 LOGIN " // of shown
)

// page is memory of the client's: a file that has no name, and where it is mapped.
type page struct {
	fd  int
	mem []byte
}

func newPage(t *testing.T) page {
	t.Helper()
	fd, err := unix.MemfdCreate("page", unix.MFD_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	must(t, unix.Ftruncate(fd, 4096))
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(mem)) })
	copy(mem, shown)
	return page{fd, mem}
}

// The ways to send shown by a socket.
func written(_ *testing.T, fd int, p page) error {
	_, err := unix.Write(fd, p.mem[:len(shown)])
	return err
}

func sentFile(_ *testing.T, fd int, p page) error {
	_, err := unix.Sendfile(fd, p.fd, nil, len(shown))
	return err
}

func partlyFile(_ *testing.T, fd int, p page) error {
	if err := unix.Sendto(fd, p.mem[:len(before)], unix.MSG_MORE, nil); err != nil {
		return err
	}
	offset := int64(len(before))
	_, err := unix.Sendfile(fd, p.fd, &offset, len(shown)-len(before))
	return err
}

func spliced(t *testing.T, fd int, p page) error {
	var pipe [2]int
	must(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	bytes := unix.Iovec{Base: &p.mem[0]}
	bytes.SetLen(len(shown))
	if _, err := unix.Vmsplice(pipe[1], []unix.Iovec{bytes}, 0); err != nil {
		return err
	}
	_, err := unix.Splice(pipe[0], nil, fd, nil, len(shown), 0)
	return err
}

func zeroCopied(_ *testing.T, fd int, p page) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return err
	}
	return unix.Sendto(fd, p.mem[:len(shown)], unix.MSG_ZEROCOPY, nil)
}

// TestLent has clients in this kernel change what they said behind the tap's back: it
// says so, or has what the server read.
func TestLent(t *testing.T) {
	for _, test := range []struct {
		name string
		send func(*testing.T, int, page) error
		lent bool // to both taps
	}{
		{"write", written, false},
		{"sendfile", sentFile, true},
		{"sendfile behind a write", partlyFile, true},
		{"splice", spliced, true},
		{"MSG_ZEROCOPY", zeroCopied, false}, // the kernel copies it where it is received
	} {
		const addr = "198.51.100.25:61143"
		for name, access := range accesses(t) {
			t.Run(test.name+" to cgroup, "+name, func(t *testing.T) {
				p := joined(t)
				tap := load(t, p.server, bpf.See(access))
				client, server := p.dial(t, addr)
				wantSeen(t, tap, test.lent, lend(t, client, server, test.send))
			})
			t.Run(test.name+" by loopback, "+name, func(t *testing.T) {
				p := joined(t)
				p.client = p.server
				tap := load(t, p.server, bpf.See(access))
				client, server := p.dial(t, addr)
				wantSeen(t, tap, test.lent, lend(t, client, server, test.send))
			})
		}
		t.Run(test.name+" to tcx", func(t *testing.T) {
			p := newPair(t)
			tap := p.tap(t)
			client, server := p.dial(t, addr)
			// It is seen before the kernel copies anything.
			wantSeen(t, tap, test.lent || test.name == "MSG_ZEROCOPY", lend(t, client, server, test.send))
		})
	}
}

// TestLentFirst: so with what ends the handshake.
func TestLentFirst(t *testing.T) {
	p := joined(t)
	tap := load(t, p.server)
	l := bpftest.Listen(t, p.server, "tcp", "198.51.100.25:61143")
	listenDeferred(t, l)
	client := bpftest.Dial(t, p.client, "198.51.100.25:61143")
	raw, err := client.(*net.TCPConn).SyscallConn()
	must(t, err)
	file := newPage(t)
	must(t, control(raw, func(fd int) error { return sentFile(t, fd, file) }))
	bpftest.Accept(t, l)
	wantUnbelieved(t, tap, bpf.FastOpen)
}

// TestLentAgain: nor is it hidden by a segment that was sent before it, and is sent again
// together with it.
func TestLentAgain(t *testing.T) {
	bpftest.RequireLinux(t, 6, 18, "segments that are joined to be sent again, and stay marked (since May 2026)")
	p := joined(t)
	tap := load(t, p.server)
	client, server := p.dial(t, "198.51.100.25:61143")
	// The first time goes to another station, and the last segment is not sent again alone.
	bpftest.Sysctl(t, p.client, "0", "ipv4/tcp_early_retrans")
	sendTo := func(mac net.HardwareAddr) {
		bpftest.Station(t, p.client, "lan", netip.MustParseAddr("198.51.100.25"), mac)
	}
	sendTo(net.HardwareAddr{2, 0, 0, 0, 0, 9})
	read := lend(t, client, server, func(t *testing.T, fd int, lent page) error {
		if _, err := unix.Write(fd, lent.mem[:len(before)]); err != nil {
			return err
		}
		offset := int64(len(before))
		_, err := unix.Sendfile(fd, lent.fd, &offset, len(shown)-len(before))
		sendTo(bpftest.Interface(t, p.server, "eth0").HardwareAddr)
		return err
	})
	wantSeen(t, tap, true, read)
}

// accesses are those that this kernel has.
func accesses(t *testing.T) map[string]bpf.Access {
	all := map[string]bpf.Access{"by helper": bpf.ByHelper}
	if bpf.BestAccess(t) == bpf.ByCasts {
		all["by casts"] = bpf.ByCasts
	}
	return all
}

// joined is a pair without a tap.
func joined(t *testing.T) *pair {
	p := &pair{client: bpftest.Namespace(t), server: bpftest.Namespace(t)}
	must(t, netns.Join(p.client, "lan", bpftest.Prefixes("198.51.100.1/24"), p.server, "eth0", bpftest.Prefixes("198.51.100.25/24")))
	return p
}

// lend sends shown, makes something else of it and returns what the server then reads.
func lend(t *testing.T, client, server net.Conn, send func(*testing.T, int, page) error) string {
	t.Helper()
	p := newPage(t)
	raw, err := client.(*net.TCPConn).SyscallConn()
	must(t, err)
	must(t, control(raw, func(fd int) error { return send(t, fd, p) }))
	copy(p.mem, meant)
	patient(t, server)
	got := make([]byte, len(shown))
	_, err = io.ReadFull(server, got)
	must(t, err)
	bpftest.Send(t, server, client, "a1 OK\r\n")
	return string(got)
}

// wantSeen expects that the tap marks what was lent, and else has what the server read.
func wantSeen(t *testing.T, tap readable, lent bool, read string) {
	t.Helper()
	got := rest(t, tap)
	i := slices.IndexFunc(got, func(s seen) bool { return !s.Egress && s.payload != "" })
	if i < 0 || got[i].Lent != lent {
		t.Fatalf("records are %+v, want a client's packet that is lent: %v; the server read %q", got, lent, read)
	}
	if said := dialogueOf(got); !lent && !strings.HasPrefix(said, "C:"+read+"S:a1 OK\r\n") {
		t.Errorf("dialogue is %q; the server read %q", said, read)
	}
}

package nft

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

var must = bpftest.Must

// The clients all live at one end of a wire, the server at the other.
var (
	server4  = netip.MustParseAddr("192.0.2.1")
	member4  = netip.MustParseAddr("192.0.2.2")
	static4A = netip.MustParseAddr("192.0.2.3")
	strange4 = netip.MustParseAddr("192.0.2.9")

	server6  = netip.MustParseAddr("2001:db8::1")
	member6  = netip.MustParseAddr("2001:db8::2")
	static6A = netip.MustParseAddr("2001:db8::3")
	strange6 = netip.MustParseAddr("2001:db8::9")

	neighbour6 = netip.MustParseAddr("2001:db8:64::9") // of memberNet6, in its /64
	memberNet6 = netip.MustParseAddr("2001:db8:64::2")
	serverNet6 = netip.MustParseAddr("2001:db8:64::1")
)

type world struct{ server, clients *netns.Namespace }

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{bpftest.Namespace(t), bpftest.Namespace(t)}
	on := func(addrs ...netip.Addr) (list []netip.Prefix) {
		for _, a := range addrs {
			list = append(list, netip.PrefixFrom(a, map[bool]int{true: 24, false: 64}[a.Is4()]))
		}
		return list
	}
	err := netns.Join(
		w.server, "wan", on(server4, server6, serverNet6),
		w.clients, "eth0", on(member4, static4A, strange4, member6, static6A, strange6, neighbour6, memberNet6))
	must(t, err)
	return w
}

// serve greets on a port of a namespace.
func serve(t testing.TB, ns *netns.Namespace, port uint16) { greet(t, ns, port, "220 ready") }

func greet(t testing.TB, ns *netns.Namespace, port uint16, greeting string) {
	t.Helper()
	listen(t, ns, port, func(c net.Conn) {
		_, _ = io.WriteString(c, greeting+"\r\n")
		_ = c.Close()
	})
}

// listen hands each connection over, and closes those that are open at the end.
func listen(t testing.TB, ns *netns.Namespace, port uint16, take func(net.Conn)) {
	t.Helper()
	l := bpftest.Listen(t, ns, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			take(c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
}

// dialFrom connects and reads the greeting.
func dialFrom(ns *netns.Namespace, from, to netip.Addr, port uint16) error {
	_, err := greeting(ns, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, port))
	return err
}

// greeting connects and returns the line that the server sends.
func greeting(ns *netns.Namespace, from, to netip.AddrPort) (line string, err error) {
	err = ns.Do(func() error {
		d := net.Dialer{Timeout: 20 * time.Second}
		if from.Addr().IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		line, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimRight(line, "\r\n"), err
}

// expect dials and compares the outcome, open or refused with a reset.
func (w world) expect(t *testing.T, who string, from, to netip.Addr, port uint16, open bool) {
	t.Helper()
	err := dialFrom(w.clients, from, to, port)
	switch {
	case open && err != nil:
		t.Errorf("%s %s to port %d: got %v, want a greeting", who, from, port, err)
	case !open && !errors.Is(err, unix.ECONNREFUSED):
		t.Errorf("%s %s to port %d: got %v, want ECONNREFUSED", who, from, port, err)
	}
}

// reach returns when a path works: on a busy machine a router's neighbours can take
// seconds to answer.
func (w world) reach(t *testing.T, from, to netip.Addr, port uint16) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if err = dialFrom(w.clients, from, to, port); err == nil {
			return
		}
	}
	t.Fatalf("%s to port %d of %s: %v", from, port, to, err)
}

// openGate opens a Gate that is closed with the test.
func openGate(t testing.TB, cfg Config) *Gate {
	t.Helper()
	g, err := Open(cfg)
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

// another opens a second socket, for what other programs do.
func another(t testing.TB, ns *netns.Namespace) conn {
	t.Helper()
	c, err := dial(ns.FD())
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func commit(t testing.TB, c conn, batch ...netlink.Message) {
	t.Helper()
	if _, err := c.commit(batch); err != nil {
		t.Fatal(err)
	}
}

// flushRuleset is `nft flush ruleset`.
func flushRuleset() netlink.Message {
	return message(unix.NFT_MSG_DELTABLE, 0, attributes{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0})
}

// addTable makes a table of another program's.
func addTable(t testing.TB, c conn, table string, r ruleset) {
	t.Helper()
	id := tableID{unix.NFPROTO_INET, table}
	batch, err := r.messages(tableMessages(id), id)
	must(t, err)
	commit(t, c, batch...)
}

func minute(addrs ...netip.Addr) (list []Element) {
	for _, a := range addrs {
		list = append(list, Element{a, time.Hour, time.Minute})
	}
	return list
}

func rebuild(t testing.TB, g *Gate, want ...Element) {
	t.Helper()
	must(t, g.Rebuild(want))
}

// lacks skips the test on a kernel that is too old for what it lacks, and fails it on
// others.
func lacks(t *testing.T, major, minor int, what string) {
	t.Helper()
	bpftest.RequireLinux(t, major, minor, what)
	t.Fatal("this kernel should have " + what)
}

package lab_test

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

// dialFrom connects to port 25 from one port of a host, which may have been used
// a moment ago, and returns the greeting.
func dialFrom(t *testing.T, target lab.Target, port uint16) (conn net.Conn, greeting string, err error) {
	t.Helper()
	from := netip.AddrPortFrom(lab.Client4, port)
	if target.Server.Is6() {
		from = netip.AddrPortFrom(lab.Client6, port)
	}
	err = target.NS.Do(func() error {
		d := net.Dialer{Timeout: long, LocalAddr: net.TCPAddrFromAddrPort(from), Control: bpftest.Reuse}
		d.SetMultipathTCP(false)
		conn, err = d.Dial("tcp", netip.AddrPortFrom(target.Server, lab.SMTPPort).String())
		return err
	})
	if err != nil {
		return nil, "", err
	}
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(long)))
	greeting, err = bufio.NewReader(conn).ReadString('\n')
	return conn, strings.TrimSpace(greeting), err
}

// A member whose time is over reaches the MX from a port from which he was led to
// the relay listener before, and never that one: whether he closed the connection,
// or left it without a word.
func TestExpiredMemberReusesHisPort(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		gate := "mode = \"redirect\"\nmax_new_per_minute = 0\n"
		if cut {
			gate += "cut_on_expiry = true\n"
		}
		const lifetime = 4 * time.Second
		w := newWorldWith(t, lab.Options{Lifetime: lifetime, Mode: gate})
		bpftest.Do(t, w.Server, func() error { return w.mail.ListenRelay(relayPort) })
		for _, who := range []struct {
			target lab.Target
			script lab.Script
		}{
			{w.Client4.At(lab.Server4), lab.POP3Login(lab.Server4, lab.Password)},
			{w.Client6.At(lab.Server6), lab.IMAPLogin(lab.Server6, lab.Password)},
		} {
			const closed, left = 20001, 20002 // of no other connection (ip_local_port_range)
			login(t, who.target.Host, who.script)
			settles(t, time.Second, greets(t, who.target, lab.RelayGreeting))
			first, greeting, err := dialFrom(t, who.target, closed)
			if err != nil || greeting != lab.RelayGreeting {
				t.Fatalf("a member is greeted with %q, %v", greeting, err)
			}
			second, _, err := dialFrom(t, who.target, left)
			must(t, err)
			must(t, first.(*net.TCPConn).SetLinger(0))
			must(t, first.Close())
			bpftest.Vanish(t, second)

			settles(t, lifetime+time.Second, greets(t, who.target, lab.MXGreeting)) // from any port
			reachesMX := func(port uint16) func() error {
				return func() error {
					_, greeting, err := dialFrom(t, who.target, port)
					if err == nil && greeting != lab.MXGreeting {
						t.Fatalf("from port %d: greeted with %q", port, greeting)
					}
					return err
				}
			}
			settles(t, time.Second, reachesMX(closed))
			if cut {
				settles(t, time.Second, reachesMX(left))
				continue
			}
			// The server has the connection that was left still: the guard refuses.
			if err := reachesMX(left)(); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("from the port of a connection that was left: %v, want ECONNREFUSED", err)
			}
		}
	}
}

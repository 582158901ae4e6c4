//go:build e2e

package overtls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// chosen is a source of "random" octets that are the same again and again.
type chosen struct {
	octets []byte
	at     int
}

func (c *chosen) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.octets[c.at%len(c.octets)]
		c.at++
	}
	return len(b), nil
}

// tenantPort is where HAProxy ends TLS for a tenant's own server. Nobody watches it.
const tenantPort = 8443

// startTenant is the server of a tenant behind HAProxy, which says what its
// clients want to hear.
func (w *world) startTenant(t *testing.T) net.Listener {
	t.Helper()
	var ln net.Listener
	must(t, w.server.Do(func() (err error) {
		ln, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go agree(c)
		}
	}()
	return ln
}

// agree logs everybody in.
func agree(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		tag, _, _ := strings.Cut(strings.TrimLeft(lines.Text(), " "), " ")
		if _, err := io.WriteString(c, tag+" OK Logged in.\r\n"); err != nil {
			return
		}
	}
}

// TestChosenRandom has clients show the server random of a silent connection of their
// own as their client random and session id, on a port of the same HAProxy where they
// have both ends of the conversation. They must not thereby log in on the silent one.
func TestChosenRandom(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	w.startHAProxyFor(t, w.startTenant(t).Addr().String())
	a := w.startAgent(t)
	w.attached(t, a)
	var all []*attempt
	for i := range 4 {
		silent := w.open(t, service{"haproxy", atHAProxy, 993, imap, true})
		// What is sent before shifts what the server reads against what it writes.
		w.converse(t, nth(clients4, 60000+i), silent.random, strings.Repeat(" ", i))
		all = append(all, w.load(20)...)
		a.settle(t, all)
		if got := a.all(silent.client); len(got) > 0 {
			t.Errorf("relaygate says of who was silent: %+v", got)
		}
		silent.login(t)
		all = append(all, silent.attempt)
	}
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a))
}

// sender keeps what a connection has written first.
type sender struct {
	net.Conn
	first []byte
}

func (s *sender) Write(p []byte) (int, error) {
	if s.first == nil {
		s.first = bytes.Clone(p)
	}
	return s.Conn.Write(p)
}

// converse logs in a thousand times at the tenant's server, under a random that is
// somebody else's. The octets of before are sent one by one.
func (w *world) converse(t *testing.T, from netip.Addr, random []byte, before string) {
	t.Helper()
	tcp, err := w.dial(from, atHAProxy.v4, tenantPort)
	must(t, err)
	defer tcp.Close()
	must(t, tcp.SetDeadline(time.Now().Add(time.Minute)))
	sent := &sender{Conn: tcp}
	c := tls.Client(sent, &tls.Config{InsecureSkipVerify: true, Rand: &chosen{octets: random}, CurvePreferences: []tls.CurveID{tls.CurveP256}})
	must(t, c.Handshake())
	// Random, the session id's length, and the session id (RFC 8446 §4.1.2).
	if hello := sent.first[11:]; !bytes.HasPrefix(hello, random) || !bytes.HasPrefix(hello[33:], random) {
		t.Fatalf("the ClientHello does not show %x: %x", random, hello)
	}
	for i := range before {
		_, err := io.WriteString(c, before[i:i+1])
		must(t, err)
	}
	lines := bufio.NewReader(c)
	for i := range 1000 {
		_, err := fmt.Fprintf(c, "f%d LOGIN mallory %s\r\n", i, right)
		must(t, err)
		answer, err := lines.ReadString('\n')
		must(t, err)
		if answer != fmt.Sprintf("f%d OK Logged in.\r\n", i) {
			t.Fatalf("the tenant's server said %q", answer)
		}
	}
}

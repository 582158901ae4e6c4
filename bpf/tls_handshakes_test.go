package bpf_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

func TestResumption(t *testing.T) {
	d := buildTLSD(t, bpf.OpenSSL)
	ns := bpftest.Namespace(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			tap := load(t, ns)
			attach(t, tap, d, d.serve(t, ns, addr))
			cache := tls.NewLRUClientSessionCache(10)
			for i := range 4 {
				c := dialTLS(t, ns, addr, func(c *tls.Config) {
					c.ClientSessionCache, c.MaxVersion = cache, version
				})
				line := fmt.Sprintf("USER %d\r\n", i)
				c.say(t, line) // and read a ticket
				if resumed := c.ConnectionState().DidResume; resumed != (i > 0) {
					t.Errorf("resumed: %v", resumed)
				}
				got := answers(t, tap, 1)
				if text := plainOf(got, cookieOf(t, got, c)); text != "C:"+line+"S:+OK "+line {
					t.Errorf("client %d said %q", i, text)
				}
				bpftest.Close(t, c)
			}
		})
	}
}

// TestSTARTTLS has a clear part first, in exact order with the plaintext.
func TestSTARTTLS(t *testing.T) {
	for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
		t.Run(kind.String(), func(t *testing.T) {
			d := buildTLSD(t, kind)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			attach(t, tap, d, d.serve(t, ns, addr, "starttls", "fork"))
			conn := bpftest.Dial(t, ns, addr)
			b := make([]byte, 11)
			for _, line := range []string{"+OK ready\r\n", "+OK begin\r\n"} {
				if _, err := conn.Read(b); err != nil || string(b) != line {
					t.Fatalf("server said %q, %v", b, err)
				}
				if line == "+OK ready\r\n" {
					if _, err := conn.Write([]byte("STLS\r\n")); err != nil {
						t.Fatal(err)
					}
				}
			}
			c := shakeHands(t, conn)
			cookie := cookieOf(t, rest(t, tap), c)
			must(t, tap.SetEncrypted(cookie))
			rest(t, tap)
			c.say(t, "USER a\r\n")
			c.say(t, "PASS a\r\n")
			got := answers(t, tap, 2)
			if n := count(got, bpf.Packet); n != 0 {
				t.Errorf("%d packets after SetEncrypted", n)
			}
			if text := plainOf(got, cookie); text != "C:USER a\r\nS:+OK USER a\r\nC:PASS a\r\nS:+OK PASS a\r\n" {
				t.Errorf("the client said %q", text)
			}
			must(t, tap.SetDone(cookie))
			c.say(t, "STAT\r\n")
			if got := rest(t, tap); len(got) != 0 {
				t.Errorf("after SetDone: %+v", got)
			}
			must(t, tap.SetEncrypted(cookie))
			c.say(t, "STAT\r\n")
			if got := rest(t, tap); len(got) != 0 {
				t.Errorf("after SetDone and SetEncrypted: %+v", got)
			}
		})
	}
}

// TestReusedObject has one object serve one connection after the other.
func TestReusedObject(t *testing.T) {
	d, ns, tap := opensslTap(t)
	attach(t, tap, d, d.serve(t, ns, addr, "reuse"))
	for i := range 3 {
		c := dialTLS(t, ns, addr)
		line := fmt.Sprintf("USER %d\r\n", i)
		c.say(t, line)
		got := answers(t, tap, 1)
		if text := plainOf(got, cookieOf(t, got, c)); text != "C:"+line+"S:+OK "+line {
			t.Errorf("client %d said %q", i, text)
		}
		bpftest.Close(t, c)
		collect(t, tap, kind(bpf.Closed))
	}
}

// secrets notes each handshake of a client, as one that logs its keys.
type secrets chan struct{}

func (s secrets) Write(b []byte) (int, error) {
	s <- struct{}{}
	return len(b), nil
}

// TestRenegotiation has a server ask for another handshake, which shows itself in
// no ServerHello that can be read (RFC 5246 §7.4.1.1): what follows is nobody's.
func TestRenegotiation(t *testing.T) {
	d, ns, tap := opensslTap(t)
	attach(t, tap, d, d.serve(t, ns, addr, "tls12", "again", "fork"))
	handshakes := make(secrets, 10)
	c := dialTLS(t, ns, addr, func(c *tls.Config) {
		c.Renegotiation, c.KeyLogWriter = tls.RenegotiateFreelyAsClient, handshakes
	})
	other := dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	got := answers(t, tap, 1)
	// The client finds the request when it reads, and then what it writes waits.
	answer := make(chan string)
	go func() {
		b := make([]byte, 100)
		n, err := c.Read(b)
		answer <- fmt.Sprintf("%s%v", b[:n], err)
	}()
	<-handshakes
	select {
	case <-handshakes:
	case text := <-answer:
		t.Fatalf("no second handshake: %s", text)
	}
	if _, err := c.Write([]byte("PASS a\r\n")); err != nil {
		t.Fatal(err)
	}
	if text := <-answer; text != "+OK PASS a\r\n<nil>" {
		t.Fatalf("the server said %q", text)
	}
	other.say(t, "USER b\r\n")
	got = append(got, answers(t, tap, 1)...)
	got = append(got, rest(t, tap)...)
	if text := plainOf(got, cookieOf(t, got, c)); text != "C:USER a\r\nS:+OK USER a\r\n" {
		t.Errorf("the client said %q", text)
	}
	if text := plainOf(got, cookieOf(t, got, other)); text != "C:USER b\r\nS:+OK USER b\r\n" {
		t.Errorf("the other client said %q", text)
	}
}

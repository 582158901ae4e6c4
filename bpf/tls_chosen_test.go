package bpf_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// chosen is a source of "random" bytes that all are the same 32.
type chosen struct {
	random []byte
	at     int
}

func (c *chosen) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.random[c.at%len(c.random)]
		c.at++
	}
	return len(b), nil
}

// choose makes one end of a handshake show somebody else's server random as its
// own.
func choose(random []byte) func(*tls.Config) {
	return func(c *tls.Config) {
		c.Rand = &chosen{random: random}
		// Keys of these bytes are refused where they are not used as such.
		c.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
}

// TestChosenByClient has a client show another connection's server random as its
// own random and session id (RFC 8446 §4.1.2) to a server of the same family on
// a port that is not watched. These stand in the server's object beside the
// random that counts.
func TestChosenByClient(t *testing.T) {
	const web = "127.0.0.1:61443"
	for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprint(kind, " ", tls.VersionName(version)), func(t *testing.T) {
				d := buildTLSD(t, kind)
				ns := bpftest.Namespace(t)
				tap := load(t, ns)
				attach(t, tap, d, d.serve(t, ns, addr), d.serve(t, ns, web))
				silent := dialTLS(t, ns, addr) // says nothing
				forge := func() {
					t.Helper()
					c := dialTLS(t, ns, web, choose(silent.random()), func(c *tls.Config) {
						c.MinVersion, c.MaxVersion = version, version
					})
					for range 300 { // also where a known place is doubted now and then
						c.say(t, "USER forged\r\n")
					}
				}
				forge()
				got := rest(t, tap)
				cookie := cookieOf(t, got, silent)
				if text := plainOf(got, cookie); text != "" {
					t.Errorf("another connection's words are its own: %.100q", text)
				}
				silent.say(t, "USER a\r\n")
				if text := plainOf(answers(t, tap, 1), cookie); text != "C:USER a\r\nS:+OK USER a\r\n" {
					t.Errorf("the client said %q", text)
				}
				forge()
				if text := plainOf(rest(t, tap), cookie); text != "" {
					t.Errorf("then another connection's words are its own: %.100q", text)
				}
			})
		}
	}
}

// TestChosenByServer has a process of the family be a client of a strange server,
// as a proxy is, that shows another connection's server random as its own.
func TestChosenByServer(t *testing.T) {
	const strange = 61444
	d, ns, tap := opensslTap(t)
	// The client's parent is this process.
	attach(t, tap, d, d.serve(t, ns, addr), process(t, os.Getpid()))
	victim := dialTLS(t, ns, addr)
	victim.say(t, "USER a\r\n")
	cookie := cookieOf(t, answers(t, tap, 1), victim)

	l := bpftest.Listen(t, ns, "tcp", fmt.Sprintf("127.0.0.1:%d", strange))
	cert, err := tls.LoadX509KeyPair(d.cert, d.key)
	must(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	choose(victim.random())(config)
	served := make(chan error, 1)
	go func() { served <- answerOne(l, config) }()
	d.run(t, ns, nobody, "client", fmt.Sprint(strange), "+OK forged\r\n")
	must(t, <-served)
	if got := rest(t, tap); len(got) != 0 {
		t.Errorf("a client's words are a server's: %+v", got)
	}
	victim.say(t, "PASS a\r\n")
	if text := plainOf(answers(t, tap, 1), cookie); text != "C:PASS a\r\nS:+OK PASS a\r\n" {
		t.Errorf("then the victim said %q", text)
	}
}

// answerOne answers one client's first words.
func answerOne(l net.Listener, config *tls.Config) error {
	tcp, err := l.Accept()
	if err != nil {
		return err
	}
	c := tls.Server(tcp, config)
	defer func() { _ = c.Close() }() // the client is gone by then
	if _, err := c.Read(make([]byte, 100)); err != nil {
		return err
	}
	_, err = c.Write([]byte("a1 LOGIN forged x\r\n"))
	return err
}

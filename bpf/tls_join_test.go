package bpf_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// attach puts probes on the server's library, for these processes' calls.
func attach(t testing.TB, tap *bpf.Tap, d *tlsd, servers ...bpf.ServerProcess) *bpf.LibraryProbes {
	t.Helper()
	if err := tap.SetServers(servers); err != nil {
		t.Fatal(err)
	}
	probes, err := tap.AttachLibrary(d.library)
	if err != nil {
		t.Fatal(err)
	}
	return probes
}

func tlsCounters(t testing.TB, tap *bpf.Tap) bpf.TLSCounters {
	t.Helper()
	counters, err := tap.TLSCounters()
	if err != nil {
		t.Fatal(err)
	}
	return counters
}

func counters(t testing.TB, tap *bpf.Tap) bpf.Counters {
	t.Helper()
	counters, err := tap.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return counters
}

var retryRandom = []byte{
	0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
	0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
}

// TestTLSJoin has several clients talk in turns through a server's library, and
// expects of each exactly its own words under its own address.
func TestTLSJoin(t *testing.T) {
	const v4, v6 = "127.0.0.1:61143", "[::1]:61143"
	for _, test := range []struct {
		name, addr string
		kind       bpf.LibraryKind
		options    []string
		retried    bool
	}{
		{"OpenSSL, TLS 1.3", v4, bpf.OpenSSL, nil, false},
		{"OpenSSL, TLS 1.3, IPv6", v6, bpf.OpenSSL, nil, false},
		{"OpenSSL, TLS 1.2", v4, bpf.OpenSSL, []string{"tls12"}, false},
		{"OpenSSL, a warning before the ServerHello", v4, bpf.OpenSSL, []string{"tls12", "warning"}, false},
		{"OpenSSL, a read that shakes hands", v4, bpf.OpenSSL, []string{"lazy", "fork"}, false},
		{"OpenSSL, _ex", v4, bpf.OpenSSL, []string{"ex"}, false},
		{"OpenSSL, HelloRetryRequest", v4, bpf.OpenSSL, []string{"p384"}, true},
		{"OpenSSL, TLS by the kernel", v4, bpf.OpenSSL, []string{"ktls"}, false},
		{"OpenSSL, fork before the handshake", v4, bpf.OpenSSL, []string{"fork"}, false},
		{"OpenSSL, fork after the handshake", v6, bpf.OpenSSL, []string{"forklate"}, false},
		{"GnuTLS, TLS 1.3", v4, bpf.GnuTLS, nil, false},
		{"GnuTLS, TLS 1.2, IPv6", v6, bpf.GnuTLS, []string{"tls12"}, false},
		{"GnuTLS, HelloRetryRequest", v4, bpf.GnuTLS, []string{"p384"}, true},
		{"GnuTLS, corked", v4, bpf.GnuTLS, []string{"cork"}, false},
		{"GnuTLS, send2 and fork", v4, bpf.GnuTLS, []string{"ex", "fork"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := buildTLSD(t, test.kind)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			server := d.serve(t, ns, test.addr, test.options...)
			probes := attach(t, tap, d, server)

			const clients = 8
			var all [clients]*tlsClient
			for i := range all {
				all[i] = dialTLS(t, ns, test.addr)
				if got := bytes.Equal(all[i].random(), retryRandom); got != test.retried {
					t.Fatalf("HelloRetryRequest: %v, want %v", got, test.retried)
				}
			}
			for _, word := range []string{"USER", "PASS", "STAT"} {
				for i, c := range all {
					c.say(t, fmt.Sprintf("%s %d\r\n", word, i))
				}
			}
			got := answers(t, tap, 3*clients)
			for i, c := range all {
				cookie := cookieOf(t, got, c)
				want := fmt.Sprintf("C:USER %d\r\nS:+OK USER %[1]d\r\nC:PASS %[1]d\r\nS:+OK PASS %[1]d\r\nC:STAT %[1]d\r\nS:+OK STAT %[1]d\r\n", i)
				if text := plainOf(got, cookie); text != want {
					t.Errorf("client %d said %q, want %q", i, text, want)
				}
			}
			for _, r := range got {
				if r.Kind == bpf.Plain && (r.Owner != server.PID || r.Early || len(r.payload) != r.WireLen) {
					t.Errorf("plaintext is %+v, want owner %d", r, server.PID)
				}
			}
			if n := count(got, bpf.Handshake); n != clients {
				t.Errorf("%d handshakes, want %d", n, clients)
			}
			counters := tlsCounters(t, tap)
			if counters.Handshakes != clients || counters.Bound != clients || counters.Unbound != 0 || counters.Clients != 0 {
				t.Errorf("counters are %+v", counters)
			}
			if !probes.Recognised() {
				t.Error("no handshake was recognised")
			}
			if slices.Contains(test.options, "ktls") {
				t.Logf("connections whose records the kernel makes, and reads: %v", kernelTLS(t, ns))
			}

			for _, c := range all {
				bpftest.Close(t, c)
			}
			for range all {
				collect(t, tap, kind(bpf.Closed))
			}
			if n := tap.Randoms(t); n != 0 {
				t.Errorf("%d randoms after the end of all connections", n)
			}
		})
	}
}

// kernelTLS reads what the kernel counts (Documentation/networking/tls.rst), if
// it has TLS.
func kernelTLS(t *testing.T, ns *netns.Namespace) (found []string) {
	t.Helper()
	bpftest.Do(t, ns, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/tls_stat")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 && (f[0] == "TlsTxSw" || f[0] == "TlsRxSw") {
				found = append(found, f[1])
			}
		}
		return err
	})
	return found
}

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
			if err := tap.SetEncrypted(cookie); err != nil {
				t.Fatal(err)
			}
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
			if err := tap.SetDone(cookie); err != nil {
				t.Fatal(err)
			}
			c.say(t, "STAT\r\n")
			if got := rest(t, tap); len(got) != 0 {
				t.Errorf("after SetDone: %+v", got)
			}
			if err := tap.SetEncrypted(cookie); err != nil {
				t.Fatal(err)
			}
			c.say(t, "STAT\r\n")
			if got := rest(t, tap); len(got) != 0 {
				t.Errorf("after SetDone and SetEncrypted: %+v", got)
			}
		})
	}
}

// TestWays is the join on kernels where each way to attach is the best.
func TestWays(t *testing.T) {
	for _, test := range []struct {
		way   bpf.Way
		probe func() error
	}{
		{bpf.ByPerf, bpf.HaveUprobes}, {bpf.ByMulti, bpf.HaveUprobeMulti}, {bpf.BySession, bpf.HaveUprobeSession},
	} {
		t.Run(test.way.String(), func(t *testing.T) {
			bpftest.RequireRoot(t)
			if err := test.probe(); errors.Is(err, ebpf.ErrNotSupported) {
				t.Skip(err)
			}
			for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
				d := buildTLSD(t, kind)
				ns := bpftest.Namespace(t)
				tap := load(t, ns)
				if err := tap.SetServers([]bpf.ServerProcess{d.serve(t, ns, addr, "ex")}); err != nil {
					t.Fatal(err)
				}
				probes, err := tap.AttachLibraryBy(test.way, d.library)
				if err != nil {
					t.Fatal(err)
				}
				c := dialTLS(t, ns, addr)
				c.say(t, "USER a\r\n")
				c.say(t, "PASS a\r\n")
				got := answers(t, tap, 2)
				if text := plainOf(got, cookieOf(t, got, c)); text != "C:USER a\r\nS:+OK USER a\r\nC:PASS a\r\nS:+OK PASS a\r\n" {
					t.Errorf("%v: the client said %q", kind, text)
				}
				bpftest.Close(t, probes)
			}
		})
	}
}

// TestReusedObject has one object serve one connection after the other.
func TestReusedObject(t *testing.T) {
	d := buildTLSD(t, bpf.OpenSSL)
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
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
	d := buildTLSD(t, bpf.OpenSSL)
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
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

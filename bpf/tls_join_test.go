package bpf_test

import (
	"bytes"
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
	must(t, tap.SetServers(servers))
	probes, err := tap.AttachLibrary(d.library)
	must(t, err)
	return probes
}

func tlsCounters(t testing.TB, tap *bpf.Tap) bpf.TLSCounters {
	t.Helper()
	counters, err := tap.TLSCounters()
	must(t, err)
	return counters
}

func counters(t testing.TB, tap *bpf.Tap) bpf.Counters {
	t.Helper()
	counters, err := tap.Counters()
	must(t, err)
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
				must(t, tap.SetServers([]bpf.ServerProcess{d.serve(t, ns, addr, "ex")}))
				probes, err := tap.AttachLibraryBy(test.way, d.library)
				must(t, err)
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

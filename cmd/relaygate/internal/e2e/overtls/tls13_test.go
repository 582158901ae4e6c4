//go:build e2e

package overtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/e2e/layer"
)

// TestEarlyData: a login in early data (RFC 8446 §2.3) may be anybody's who
// recorded it, and opens nothing. A later one over the same session does.
func TestEarlyData(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	w.startHAProxy(t)
	a := w.startAgent(t)
	w.attached(t, a)
	session, early := filepath.Join(w.dir, "session"), filepath.Join(w.dir, "early")
	first, second := nth(clients4, 40001), nth(clients4, 40002)
	must(t, w.client.Do(func() error {
		return netns.AddAddresses("lo", netip.PrefixFrom(first, 32), netip.PrefixFrom(second, 32))
	}))
	must(t, os.WriteFile(early, fmt.Appendf(nil, "a1 LOGIN %s %s\r\n", user(1), right), 0o644))
	to := netip.AddrPortFrom(atHAProxy.v4, 993).String()
	// A HelloRetryRequest would refuse the early data (RFC 8446 §4.2.10).
	said := w.openssl(t, "a1 LOGIN "+user(2)+" "+right+"\r\n", "s_client", "-connect", to, "-bind", first.String()+":0", "-groups", "P-256", "-tls1_3", "-sess_out", session)
	if !strings.Contains(said, "a1 OK") {
		t.Fatalf("the first login failed:\n%s", said)
	}
	said = w.openssl(t, "", "s_client", "-connect", to, "-bind", second.String()+":0", "-groups", "P-256", "-tls1_3", "-sess_in", session, "-early_data", early)
	if !strings.Contains(said, "Early data was accepted") || !strings.Contains(said, "a1 OK") {
		t.Fatalf("the login in early data was not taken:\n%s", said)
	}
	all := []*attempt{
		{service: service{server: "haproxy"}, client: first, user: user(2), ok: true, begun: time.Now()},
		{service: service{server: "haproxy"}, client: second, user: user(1), begun: time.Now()}, // not to be believed
	}
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a))
	t.Logf("of the login in early data relaygate says %+v", a.all(second))
}

// openssl runs openssl(1) in the clients' namespace for two seconds.
func (w *world) openssl(t *testing.T, say string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", append(args, "-ign_eof")...)
	said := &layer.Output{}
	cmd.Stdout, cmd.Stderr = said, said
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, w.client.Do(cmd.Start))
	time.Sleep(500 * time.Millisecond)
	_, err = io.WriteString(in, say)
	must(t, err)
	time.Sleep(1500 * time.Millisecond)
	_, _ = io.WriteString(in, "c1 LOGOUT\r\n")
	in.Close()
	_ = cmd.Wait()
	return said.String()
}

// TestInjection: what came in clear text behind STARTTLS is neither an answer nor
// a command of what came through TLS (the mistake of CVE-2011-0411 in servers).
func TestInjection(t *testing.T) {
	w := newWorld(t)
	w.startAll(t)
	a := w.startAgent(t)
	w.attached(t, a)
	var all []*attempt
	var playing sync.WaitGroup
	for _, s := range w.services {
		if s.implicit {
			continue
		}
		for _, behind := range []string{"a0 LOGIN mallory " + right, "USER mallory\r\nPASS " + right, "a0 NOOP {200+}", "a0 OK Logged in"} {
			w.next++
			one := &attempt{
				service: s, user: user(w.next), client: nth(clients4, w.next+1), password: []string{"wrong", right},
				config: &tls.Config{InsecureSkipVerify: true}, injected: behind + "\r\n",
			}
			all = append(all, one)
			playing.Go(func() { w.play(one) })
		}
	}
	playing.Wait()
	a.settle(t, all)
	taken, doubted := 0, 0
	for _, one := range all {
		if one.err == nil {
			taken++
		}
		if a.has(one.client, func(v verdict) bool { return v.Result == "tainted" }) {
			doubted++
		}
	}
	// Whether the server goes on is its own affair.
	t.Logf("%d of %d dialogues went on behind what was injected; relaygate doubts %d", taken, len(all), doubted)
	t.Log(judge(t, append(all, w.probes...), a))
}

// TestBusyHTTPS: a web server with the same library on another port changes
// nothing.
func TestBusyHTTPS(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	https := w.start(t, "https", "", "openssl", "s_server", "-accept", netip.AddrPortFrom(atHTTPS.v4, 443).String(),
		"-cert", w.cert, "-key", w.key, "-www", "-quiet")
	a := w.startAgent(t)
	w.attached(t, a)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var pages, failed int
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := w.page(); err != nil {
				failed++
			}
			pages++
		}
	})
	all := w.load(min(300, clients()))
	close(stop)
	wg.Wait()
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a))
	t.Logf("%d web pages beside it, %d failed; relaygate status:\n%s", pages, failed, a.status(t))
	if failed == pages {
		t.Errorf("no web page was read: %s", https.Log())
	}
}

// page reads one web page over TLS.
func (w *world) page() (err error) {
	tcp, err := w.dial(nth(clients4, 50000), atHTTPS.v4, 443)
	if err != nil {
		return err
	}
	defer tcp.Close()
	c := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true})
	if err := errors.Join(c.SetDeadline(time.Now().Add(5 * time.Second))); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

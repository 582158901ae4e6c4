//go:build e2e

package recipes

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/e2e/layer"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// program is the real binary, built once.
var program string

func TestMain(m *testing.M) { os.Exit(labtest.Run(m, &program)) }

var must = bpftest.Must

func settles(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	must(t, lab.Poll(t.Context(), limit, 50*time.Millisecond, check))
}

// The addresses of a mail server behind the gateway, from the manual's recipe.
var (
	gateway4, inner4 = netip.MustParsePrefix("198.51.100.129/28"), netip.MustParsePrefix("198.51.100.130/28")
	gateway6, inner6 = netip.MustParsePrefix("2001:db8:25:1::1/64"), netip.MustParsePrefix("2001:db8:25:1::2/64")
)

// world is the lab's network with a real SMTP server, mailboxes to log in to, and
// somebody out there who takes mail.
type world struct {
	*lab.Network
	mode     string
	dir      string // which the server's processes can reach
	list     string // relayhosts
	smtp     *netns.Namespace
	at4, at6 netip.Addr // where the mail servers are
	sink     *sink
	server   *layer.Server
	daemon   *lab.Daemon
}

func newWorld(t *testing.T, mode string) *world {
	t.Helper()
	w := &world{Network: labtest.Network(t), dir: labtest.Folder(t), mode: mode, at4: lab.Server4, at6: lab.Server6}
	w.smtp = w.Server
	if mode == "gateway" {
		w.addInside(t)
	}
	mail, err := lab.StartMailboxes(w.smtp)
	must(t, err)
	t.Cleanup(func() { must(t, mail.Close()) })
	w.sink = listenSink(t, w.Stranger.NS)
	return w
}

// addInside puts the mail servers behind the host.
func (w *world) addInside(t *testing.T) {
	t.Helper()
	w.smtp = bpftest.Namespace(t)
	must(t, netns.Join(w.Server, "lan", []netip.Prefix{gateway4, gateway6}, w.smtp, "eth0", []netip.Prefix{inner4, inner6}))
	bpftest.Sysctl(t, w.Server, "1", "ipv4/ip_forward", "ipv6/conf/all/forwarding")
	must(t, w.smtp.DefaultRoute(gateway4.Addr()))
	must(t, w.smtp.DefaultRoute(gateway6.Addr()))
	w.at4, w.at6 = inner4.Addr(), inner6.Addr()
}

// startServer starts a mail server with the recipe of the manual.
func (w *world) startServer(t *testing.T, s mailServer) {
	t.Helper()
	shared := filepath.Join(w.dir, s.name)
	must(t, os.Mkdir(shared, 0o755))
	w.list = filepath.Join(shared, "relayhosts")
	must(t, os.WriteFile(w.list, nil, 0o644))
	must(t, os.WriteFile(filepath.Join(shared, "recipe"), []byte(snippet(t, s.name, w.mode)), 0o644))
	w.server = layer.Run(t, w.smtp, w.dir, s.name, s.name, "sh", "-euc", s.script, "sh", shared, lab.Stranger4.String(), w.mode)
	ports := []uint16{25}
	if w.mode == "redirect" {
		ports = append(ports, 925)
	}
	for _, port := range ports {
		for _, h := range []*lab.Host{w.Client4, w.Client6} {
			settles(t, 20*time.Second, func() error {
				conn, err := h.Dial(t.Context(), w.address(h, port))
				if err != nil {
					return fmt.Errorf("%w; it says\n%s", err, w.server.Log())
				}
				return conn.Close()
			})
		}
	}
}

// startDaemon starts relaygate with the recipe of the manual.
func (w *world) startDaemon(t *testing.T, s mailServer) {
	t.Helper()
	if w.mode == "mark" || w.mode == "sets" {
		w.nft(t, snippet(t, "nft", w.mode), "-f", "-")
	}
	// The host's own file stays as it is.
	raw := strings.ReplaceAll(snippet(t, "gate", w.mode)+snippet(t, "files", s.name), "/etc/relayhosts", w.list)
	w.daemon = labtest.Daemon(t, w.Server, lab.Options{Exe: program, Dir: t.TempDir(), Raw: raw})
}

// nft runs nft(8) on the host that relaygate guards.
func (w *world) nft(t *testing.T, input string, args ...string) {
	t.Helper()
	must(t, w.Server.Do(func() error {
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft %q: %w\n%s\n%s", args, err, out, input)
		}
		return nil
	}))
}

// address is where a host reaches the server.
func (w *world) address(h *lab.Host, port uint16) netip.AddrPort {
	if h == w.Client6 {
		return netip.AddrPortFrom(w.at6, port)
	}
	return netip.AddrPortFrom(w.at4, port)
}

// admit makes an address a member by a login.
func (w *world) admit(t *testing.T, h *lab.Host, addr netip.Addr, script lab.Script) {
	t.Helper()
	if answer, ok, err := h.Login(t.Context(), script); err != nil || !ok {
		t.Fatalf("login: %q, %v", answer, err)
	}
	settles(t, 20*time.Second, func() error { // a slow disk holds the file back
		list, err := os.ReadFile(w.list)
		if err == nil && !strings.Contains(string(list), addr.String()) {
			err = fmt.Errorf("relayhosts holds %q", list)
		}
		return err
	})
}

func (w *world) order(t *testing.T, verb string, addr netip.Addr) {
	t.Helper()
	o := control.Order{Verb: verb, Prefix: netip.PrefixFrom(addr, addr.BitLen())}
	_, err := control.NewClient(w.daemon.Socket).Order(t.Context(), o)
	must(t, err)
}

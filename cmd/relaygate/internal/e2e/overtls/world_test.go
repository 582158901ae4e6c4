//go:build e2e

package overtls

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// The addresses are those that RFC 5737 and RFC 3849 set aside for examples,
// but for the clients, of which there are as many as there are logins.
var (
	servers4 = netip.MustParsePrefix("198.51.100.0/24")
	servers6 = netip.MustParsePrefix("2001:db8:25::/64")

	clients4 = netip.MustParsePrefix("10.9.0.0/16")
	clients6 = netip.MustParsePrefix("2001:db8:9::/64")
)

// program is the real binary, built once if none is named.
var program string

func TestMain(m *testing.M) {
	flag.StringVar(&program, "program", "", "a relaygate that is built already")
	flag.Parse()
	if program != "" {
		os.Exit(m.Run())
	}
	os.Exit(labtest.Run(m, &program))
}

var must = bpftest.Must

// place is where a server listens: all have the usual ports.
type place struct{ v4, v6 netip.Addr }

// The places in use. HAProxy has a second one, where clients are announced to
// Dovecot. A balancer on another host passes connections on to the last one.
var (
	atBusy, atFork, atCyrus, atCourier = at(1), at(2), at(3), at(4)
	atNginx, atHAProxy, atStunnel      = at(5), at(6), at(7)
	atAnnounced, atHTTPS, atPassed     = at(8), at(9), at(10)
	atOld, atNew                       = at(11), at(12)
)

// atBalancer is the clients' host, from which the balancer connects, atDirector another
// address of it.
var (
	atBalancer = place{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8:6::10")}
	atDirector = place{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8:6::11")}
)

func at(i int) place { return place{nth(servers4, i), nth(servers6, i)} }

// services are the four ports of a mail server.
func (p place) services(name string) []service {
	return append(p.implicit(name), service{name, p, 143, imap, false}, service{name, p, 110, pop3, false})
}

// implicit are those of a proxy that knows nothing but TLS.
func (p place) implicit(name string) []service {
	return []service{{name, p, 993, imap, true}, {name, p, 995, pop3, true}}
}

// nth is the i-th address of a prefix.
func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1], b[len(b)-2] = b[len(b)-1]|byte(i), b[len(b)-2]|byte(i>>8)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// world is a host with mail servers, a host with all clients, and a directory
// that the servers' unprivileged processes can reach.
type world struct {
	server, client *netns.Namespace
	dir            string
	cert, key      string // PEM files
	both           string // certificate and key in one file
	services       []service
	next           int        // number of the last client
	probes         []*attempt // what attached did
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: labtest.Folder(t), server: bpftest.Namespace(t), client: bpftest.Namespace(t)}
	must(t, w.join())
	must(t, w.makeCertificate())
	return w
}

// join connects the two hosts, and gives the client whole prefixes: a packet to
// any address in them is its own ("AnyIP", ip-route(8) type local).
func (w *world) join() error {
	gateway4, gateway6 := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8:6::1/64")
	host4, host6 := netip.PrefixFrom(atBalancer.v4, 24), netip.PrefixFrom(atBalancer.v6, 64)
	err := netns.Join(w.client, "eth0", []netip.Prefix{host4, host6}, w.server, "eth0", []netip.Prefix{gateway4, gateway6})
	if err != nil {
		return err
	}
	err = w.server.Do(func() error {
		var err error
		for _, p := range []place{atBusy, atFork, atCyrus, atCourier, atNginx, atHAProxy, atStunnel, atAnnounced, atHTTPS, atPassed, atOld, atNew} {
			err = errors.Join(err, netns.AddAddresses("lo", netip.PrefixFrom(p.v4, 32), netip.PrefixFrom(p.v6, 128)))
		}
		return errors.Join(err, netns.AddRoute(clients4, host4.Addr()), netns.AddRoute(clients6, host6.Addr()))
	})
	if err != nil {
		return err
	}
	for _, gw := range []netip.Prefix{gateway4, gateway6} {
		if err := w.client.DefaultRoute(gw.Addr()); err != nil {
			return err
		}
	}
	return w.client.Do(func() error {
		more := netns.AddAddresses("eth0", netip.PrefixFrom(atDirector.v4, 32), netip.PrefixFrom(atDirector.v6, 128))
		return errors.Join(more, netns.AddRoute(clients4, netip.Addr{}), netns.AddRoute(clients6, netip.Addr{}))
	})
}

// makeCertificate writes a self-signed certificate.
func (w *world) makeCertificate() error {
	cert, key, err := lab.Certificate()
	w.cert, w.key, w.both = filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem"), filepath.Join(w.dir, "both.pem")
	return errors.Join(
		err,
		os.WriteFile(w.cert, cert, 0o644),
		os.WriteFile(w.key, key, 0o644),
		// Readable by all: some servers drop their rights first; the key is
		// worth nothing.
		os.WriteFile(w.both, append(key, cert...), 0o644),
	)
}

package lab_test

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

const (
	laterPort = 2143
	anybody   = 65534
)

// A user of the host has a connection at the port of a mail server that is not there at
// the time, and speaks as that when it is.
func TestConnectionsOfBeforeTheServer(t *testing.T) {
	client := netip.AddrPortFrom(ghostClient, 20001)
	server := netip.AddrPortFrom(ghostServer.Addr(), laterPort)
	for _, way := range []struct {
		name string
		have func(*testing.T, *world, *rawClient) (tenant io.Writer, first uint32)
		late bool // the client acknowledges when the mail server is known
	}{
		{"accepted by another listener", func(t *testing.T, w *world, c *rawClient) (io.Writer, uint32) {
			l := bpftest.ListenAs(t, w.Server, anybody, "tcp4", server.String())
			c.say(1000, 0, "S", "")
			first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
			c.say(1001, first, "A", "")
			conn, err := l.Accept()
			must(t, err)
			must(t, l.Close())
			t.Cleanup(func() { _ = conn.Close() })
			return conn, first
		}, false},
		{"opened by both", func(t *testing.T, w *world, c *rawClient) (io.Writer, uint32) {
			tenant := opening(t, w.Server, server, client)
			first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
			c.say(1000, 0, "S", "")
			c.hears(func(tcp *layers.TCP) bool { return tcp.SYN && tcp.ACK && tcp.Ack == 1001 })
			return tenant, first
		}, true},
	} {
		for _, tap := range []string{
			"tap = \"cgroup\"\n",
			"tap = \"tcx\"\ninterfaces = [\"to-stranger\", \"to-client4\", \"to-client6\"]\n",
			"tap = \"afpacket\"\ninterfaces = [\"to-stranger\", \"to-client4\", \"to-client6\"]\n",
		} {
			t.Run(way.name+", "+tap, func(t *testing.T) {
				w := newWorld(t, time.Minute, "[watch]\nimap = [143, 2143]\n"+tap)
				bpftest.Do(t, w.Server, func() error {
					return netns.AddAddresses("lo", netip.PrefixFrom(server.Addr(), 32))
				})
				station(t, w.Server, "to-stranger", ghostClient)
				end := wire{ns: w.Stranger.NS, iface: "eth0", to: bpftest.Interface(t, w.Server, "to-stranger").HardwareAddr, port: laterPort}
				c := newRawClient(t, end, client.Port())
				tenant, first := way.have(t, w, c)
				imapAnswers(t, bpftest.Listen(t, w.Server, "tcp4", server.String()))
				w.knows(t, server)
				if way.late {
					c.say(1001, first, "A", "")
				}
				settles(t, time.Second, func() error { _, err := io.WriteString(tenant, "* OK ready\r\n"); return err })
				next := first + uint32(len("* OK ready\r\n"))
				c.hears(begins("* OK"))
				c.say(1001, next, "PA", "a1 LOGIN ghost boo\r\n")
				c.hears(func(tcp *layers.TCP) bool { return tcp.Ack == 1021 })
				_, err := io.WriteString(tenant, "a1 OK done\r\n")
				must(t, err)
				c.hears(begins("a1 OK"))
				w.stay(t, w.Client6, netip.AddrPortFrom(lab.Server6, lab.IMAPPort))
				settles(t, 2*time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
				if _, ok := w.expires(t)[ghostClient.String()]; ok {
					t.Errorf("granted:\n%s", w.verb(t, "why", ghostClient.String()))
				}
			})
		}
	}
}

// knows waits until the daemon believes a mail server.
func (w *world) knows(t *testing.T, server netip.AddrPort) {
	t.Helper()
	settles(t, 5*time.Second, func() error {
		w.stay(t, w.Client4, server)
		return lab.Poll(t.Context(), 300*time.Millisecond, 10*time.Millisecond, func() error {
			if _, ok := w.expires(t)[lab.Client4.String()]; !ok {
				return errors.New("the mail server is not believed so far")
			}
			return nil
		})
	})
}

// socket is one without a connection so far.
type socket int

func (fd socket) Write(b []byte) (int, error) { return unix.Write(int(fd), b) }

// opening is a socket of a user of the host that connects.
func opening(t *testing.T, ns *netns.Namespace, from, to netip.AddrPort) io.Writer {
	t.Helper()
	var fd int
	bpftest.As(t, ns, anybody, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: from.Addr().As4(), Port: int(from.Port())}))
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	})
	return socket(fd)
}

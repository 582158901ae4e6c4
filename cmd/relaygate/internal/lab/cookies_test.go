package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// rawClient is the ghost without a kernel: it sends and reads segments.
type rawClient struct {
	t *testing.T
	wire
	end       bpftest.Wire
	localPort uint16
}

func newRawClient(t *testing.T, w wire, localPort uint16) *rawClient {
	t.Helper()
	return &rawClient{t: t, wire: w, end: bpftest.OpenWire(t, w.ns, w.iface), localPort: localPort}
}

func (c *rawClient) say(seq, ack uint32, flags, payload string) {
	c.t.Helper()
	c.send(c.t, segment{seq: seq, ack: ack, flags: flags, payload: payload}.frame(c.t, c.wire, c.localPort))
}

// hears waits for a segment of the server that is as wanted.
func (c *rawClient) hears(want func(*layers.TCP) bool) *layers.TCP {
	c.t.Helper()
	return c.hearsFrom(netip.Addr{}, want)
}

// hearsFrom waits for one that comes from an address, or from any if there is none.
func (c *rawClient) hearsFrom(addr netip.Addr, want func(*layers.TCP) bool) *layers.TCP {
	c.t.Helper()
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(c.end.FD, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			c.t.Fatalf("wait for the server: %v", err)
		}
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || uint16(tcp.DstPort) != c.localPort || !want(tcp) {
			continue
		}
		if from := p.NetworkLayer().NetworkFlow().Src().Raw(); !addr.IsValid() || bytes.Equal(from, addr.AsSlice()) {
			return tcp
		}
	}
}

// farAway makes a listener drop what would not get through more routers.
func farAway(_, _ string, raw syscall.RawConn) (err error) {
	failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MINTTL, 32) })
	return errors.Join(failed, err)
}

// TestGatewayServerWithSYNCookies: of two handshakes the server takes the one and
// the router sees the other completed, by a segment that does not reach the server. What
// the server says to the first bytes is no answer to those behind them.
func TestGatewayServerWithSYNCookies(t *testing.T) {
	const port, skip = 1143, uint32(len("* OK ready\r\n"))
	for _, greeted := range []bool{true, false} {
		t.Run(fmt.Sprint("greeted before the router sees a connection: ", greeted), func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, "imap = [143, 1143]\n"+tcxLan)
			bpftest.Sysctl(t, w.Server, "2", "ipv4/tcp_syncookies")
			bpftest.Do(t, w.Server, func() error {
				if err := netns.AddAddresses("eth0", netip.PrefixFrom(ghostServer.Addr(), 24)); err != nil {
					return err
				}
				lc := net.ListenConfig{Control: farAway}
				l, err := lc.Listen(t.Context(), "tcp4", netip.AddrPortFrom(ghostServer.Addr(), port).String())
				if err == nil {
					imapAnswers(t, l)
				}
				return err
			})
			w.station(t, "to-stranger", ghostClient)
			end := w.wireTo(t, "to-stranger", w.Stranger.NS)
			end.port = port
			c := newRawClient(t, end, 20001)

			answer := func(first uint32) uint32 {
				c.say(first-1, 0, "S", "")
				return c.hears(func(tcp *layers.TCP) bool { return tcp.SYN && tcp.Ack == first }).Seq + 1
			}
			server := answer(1001)
			if other := answer(1001 + skip); other != server+skip {
				t.Fatalf("the two answers differ by %d, want %d: the test proves nothing", other-server, skip)
			}
			shown := segment{seq: 1001 + skip, ack: server + skip, flags: "A"}.frame(t, c.wire, c.localPort)
			shown[14+8] = 2 // its time to live: one more router, and nobody gets it
			shown = checksummed(shown)
			if !greeted {
				c.send(t, shown)
			}
			c.say(1001, server, "A", "")
			c.hears(func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), "* OK") })
			if greeted {
				c.send(t, shown)
			}
			c.say(1001, server+skip, "PA", "* padding!\r\n")
			hello := c.hears(func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), "* OK done") })
			next := hello.Seq + uint32(len(hello.Payload))
			c.say(1001+skip, next, "PA", "a1 LOGIN ghost boo\r\n")
			c.hears(func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), "a1 OK") })

			settles(t, 2*time.Second, func() error {
				if s := w.totals(t); s.Drops["tap: connections not followed, more than one handshake answered"] != 1 {
					return fmt.Errorf("it is not counted: %+v", s)
				}
				return nil
			})
			w.grantedTo(t, 0)
		})
	}
}

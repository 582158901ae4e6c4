package lab_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// ghostServes makes an IMAP server at the ghost's server address, which a device gets.
func ghostServes(t *testing.T, ns *netns.Namespace, device string, bits int, port uint16) {
	t.Helper()
	bpftest.Do(t, ns, func() error {
		if err := netns.AddAddresses(device, netip.PrefixFrom(ghostServer.Addr(), bits)); err != nil {
			return err
		}
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(t.Context(), "tcp4", netip.AddrPortFrom(ghostServer.Addr(), port).String())
		if err == nil {
			imapAnswers(t, l)
		}
		return err
	})
}

const ghostPort = 1143

// ghostly is a host on which an IMAP server answers whatever a client without a kernel
// says, that is the ghost.
func ghostly(t *testing.T, watch string) (*world, *rawClient) {
	t.Helper()
	w := newWorld(t, time.Minute, "[watch]\nimap = [143, 1143]\n"+watch)
	ghostServes(t, w.Server, "lo", 32, ghostPort)
	station(t, w.Server, "to-stranger", ghostClient)
	end := wire{ns: w.Stranger.NS, iface: "eth0", to: bpftest.Interface(t, w.Server, "to-stranger").HardwareAddr, port: ghostPort}
	return w, newRawClient(t, end, 20001)
}

func begins(line string) func(*layers.TCP) bool {
	return func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), line) }
}

// TestBytesWithTheLastAcknowledgement: what comes with the last segment of the handshake
// is the listener's, and the tap does not see it. Where it is ahead of a hole the kernel
// keeps it and drops the copy that the tap does see, here of another command.
func TestBytesWithTheLastAcknowledgement(t *testing.T) {
	w, c := ghostly(t, "")
	c.say(1000, 0, "S", "")
	first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
	c.say(1004, first, "PA", "NOOP xxxxx yyyy\r\n")
	greeting := c.hears(begins("* OK"))
	next := greeting.Seq + uint32(len(greeting.Payload))
	c.say(1004, next, "PA", "LOGIN ghost boo\r\n")
	c.say(1001, next, "PA", "a1 ")
	c.hears(begins("a1 OK"))
	w.nobody(t, ghostClient, w.Client4.At(lab.Server4))
}

// onlyClient4 has a client log in and checks that it alone holds a grant: the daemon has
// seen everything before, then. It stays connected, as the socket tables must show it.
func (w *world) onlyClient4(t *testing.T) {
	t.Helper()
	w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
	settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	w.grantedTo(t, 1)
}

// grantedTo checks how many hold a grant.
func (w *world) grantedTo(t *testing.T, want int) {
	t.Helper()
	if got := w.expires(t); len(got) != want {
		t.Errorf("granted: %v", got)
	}
}

// TestResetAndBackByACookie: a client resets its connection, and goes on as if it had not.
// For a server that sends SYN cookies that is the last acknowledgement of another
// handshake, whose streams begin there: what was said before another process heard.
func TestResetAndBackByACookie(t *testing.T) {
	w, c := ghostly(t, "tap = \"afpacket\"\ninterfaces = [\"to-stranger\", \"to-client4\"]\n")
	bpftest.Sysctl(t, w.Server, "2", "ipv4/tcp_syncookies")
	const greeting, hidden = "* OK ready\r\n", "a1 LOGIN x \""
	c.say(1000, 0, "S", "")
	first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
	c.say(1001, first, "A", "")
	c.hears(begins(greeting))
	c.say(1001, first, "PA", hidden)
	next := 1001 + uint32(len(hidden))
	c.hears(func(tcp *layers.TCP) bool { return tcp.Ack == next })
	c.say(next, 0, "R", "")
	c.say(next, first+uint32(len(greeting)), "PA", "a1 NOOP\"\r\n")
	c.hears(begins("a1 OK"))
	w.onlyClient4(t)
}

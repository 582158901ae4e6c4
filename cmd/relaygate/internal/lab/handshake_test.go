//go:build linux

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

// TestBytesWithTheLastAcknowledgement: what comes with the last segment of the handshake
// is the listener's, and the tap does not see it. Where it is ahead of a hole the kernel
// keeps it and drops the copy that the tap does see, here of another command.
func TestBytesWithTheLastAcknowledgement(t *testing.T) {
	const port = 1143
	w := newWorld(t, time.Minute, "[watch]\nimap = [143, 1143]\n")
	bpftest.Do(t, w.Server, func() error {
		if err := netns.AddAddresses("lo", netip.PrefixFrom(ghostServer.Addr(), 32)); err != nil {
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
	station(t, w.Server, "to-stranger", ghostClient)
	end := wire{ns: w.Stranger.NS, iface: "eth0", to: hardware(t, w.Server, "to-stranger"), port: port}
	c := newRawClient(t, end, 20001)

	c.say(1000, 0, "S", "")
	first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
	c.say(1004, first, "PA", "NOOP xxxxx yyyy\r\n")
	greeting := c.hears(func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), "* OK") })
	next := greeting.Seq + uint32(len(greeting.Payload))
	c.say(1004, next, "PA", "LOGIN ghost boo\r\n")
	c.say(1001, next, "PA", "a1 ")
	c.hears(func(tcp *layers.TCP) bool { return strings.HasPrefix(string(tcp.Payload), "a1 OK") })

	w.nobody(t, ghostClient, w.Client4.At(lab.Server4))
}

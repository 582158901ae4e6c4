package bpf_test

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// lan is a host with a test server, and a client outside with a TCP of its own.
func lan(t *testing.T, options ...string) (*bpf.Tap, *ownTCP) {
	t.Helper()
	d := buildTLSD(t, bpf.OpenSSL)
	tap, host, outside, at := hostOnLAN(t)
	attach(t, tap, d, d.serve(t, host, at.String(), options...))
	return tap, newOwnTCP(t, host, outside, lanClient, at)
}

// TestResentHello has a client take the ServerHello in two pieces, of which neither
// shows it, and acknowledge nothing: the server's kernel sends it again in one piece,
// when the beginning of the dialogue is over.
func TestResentHello(t *testing.T) {
	tap, conn := lan(t)
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	must(t, c.Handshake())
	hidden, guess := "a1 ID (\"name\" {20+}\r\n", "a1 LOGIN alice guess\r\n" // the second is a literal
	if _, err := io.WriteString(c, hidden); err != nil {
		t.Fatal(err)
	}
	for conn.again < bpf.HelloBytes {
		if err := conn.receive(); err != nil {
			t.Fatalf("the ServerHello does not come again in one piece: %v", err)
		}
	}
	conn.honest = true
	if _, err := io.ReadFull(c, make([]byte, len("+OK ")+len(hidden))); err != nil {
		t.Fatal(err)
	}
	answered(t, c, guess)
	got := rest(t, tap)
	cookieOf(t, got, conn) // it is followed
	if calls, handshakes := count(got, bpf.Plain), count(got, bpf.Handshake); calls+handshakes != 0 {
		t.Errorf("%d calls are told of a dialogue whose beginning was not seen, and %d handshakes", calls, handshakes)
	}
}

// TestHelloBehindResent: that something was sent again before does no harm.
func TestHelloBehindResent(t *testing.T) {
	tap, conn := lan(t, "starttls")
	if _, err := io.ReadFull(conn, make([]byte, len("+OK ready\r\n"))); err != nil {
		t.Fatal(err)
	}
	for conn.again == 0 {
		if err := conn.receive(); err != nil {
			t.Fatalf("the greeting does not come again: %v", err)
		}
	}
	conn.honest = true
	if _, err := io.WriteString(conn, "STLS\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("+OK begin\r\n"))); err != nil {
		t.Fatal(err)
	}
	answered(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), "USER a\r\n")
	got := answers(t, tap, 1)
	if text := plainOf(got, cookieOf(t, got, conn)); text != "C:USER a\r\nS:+OK USER a\r\n" {
		t.Errorf("the client said %q", text)
	}
}

// answered says a line and waits for the answer.
func answered(t *testing.T, c io.ReadWriter, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len("+OK ")+len(line))); err != nil {
		t.Fatal(err)
	}
}

// ownTCP is a client's end of a connection without a kernel behind it.
type ownTCP struct {
	net.Conn      // nil: what crypto/tls does not call
	t             *testing.T
	wire          bpftest.Wire
	mac           net.HardwareAddr
	local, remote netip.AddrPort

	seq, first uint32 // its next byte, and the server's first
	next       uint32 // the server's next byte
	in         []byte
	again      int  // bytes of what came from first on, again
	honest     bool // it acknowledges what comes
}

func newOwnTCP(t *testing.T, host, outside *netns.Namespace, local, remote netip.AddrPort) *ownTCP {
	t.Helper()
	c := halfTCP(t, host, outside, local, remote)
	must(t, c.send(ack, c.first, open, ""))
	return c
}

// halfTCP is a connection of which the last acknowledgement is still to come.
func halfTCP(t *testing.T, host, outside *netns.Namespace, local, remote netip.AddrPort) *ownTCP {
	t.Helper()
	c := &ownTCP{
		t: t, local: local, remote: remote, seq: 1000,
		mac: bpftest.Interface(t, host, "lan").HardwareAddr, wire: bpftest.OpenWire(t, outside, "wan"),
	}
	bpftest.Station(t, host, "lan", local.Addr(), bpftest.Interface(t, outside, "wan").HardwareAddr)
	err := c.send(syn, 0, 0, "")
	c.seq++
	for err == nil && c.next == 0 {
		err = c.receive()
	}
	must(t, err)
	return c
}

// open is the window. It is a sliver with what is said before the server's first word:
// of less than shows a ServerHello.
const sliver, open = 20, 1 << 15

const fin, syn, push, ack, urg = 0x01, 0x02, 0x08, 0x10, 0x20

// send sends one segment.
func (c *ownTCP) send(flags byte, upTo uint32, window uint16, payload string) error {
	tcp := layers.TCP{
		Seq: c.seq, Ack: upTo, Window: window,
		FIN: flags&fin != 0, SYN: flags&syn != 0, PSH: flags&push != 0, ACK: flags&ack != 0, URG: flags&urg != 0,
	}
	if tcp.SYN {
		tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
	}
	return c.wire.Send(bpftest.Segment(c.t, c.mac, c.local, c.remote, tcp, payload))
}

// receive takes one frame.
func (c *ownTCP) receive() error {
	const link = 14
	frame := make([]byte, 1<<16)
	n, err := unix.Read(c.wire.FD, frame)
	if err == unix.EINTR {
		return nil
	}
	if err != nil || n < link+40 || frame[link+9] != unix.IPPROTO_TCP ||
		binary.BigEndian.Uint16(frame[link+20:]) != c.remote.Port() || binary.BigEndian.Uint16(frame[link+22:]) != c.local.Port() {
		return err
	}
	b := frame[link : link+int(binary.BigEndian.Uint16(frame[link+2:]))]
	seq, payload := binary.BigEndian.Uint32(b[24:]), b[20+int(b[32]>>4)*4:]
	if c.next == 0 { // the SYN-ACK
		c.first, c.next = seq+1, seq+1
		return nil
	}
	if seq == c.first && c.next != c.first {
		c.again = max(c.again, len(payload))
	}
	if known := c.next - seq; known < uint32(len(payload)) {
		c.in = append(c.in, payload[known:]...)
		c.next = seq + uint32(len(payload))
		if known == 0 && len(payload) <= sliver {
			return c.send(ack, c.first, open, "") // the rest, please
		}
	}
	if c.honest {
		return c.send(ack, c.next, open, "")
	}
	return nil
}

func (c *ownTCP) Read(b []byte) (int, error) {
	for len(c.in) == 0 {
		if err := c.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *ownTCP) Write(b []byte) (int, error) {
	upTo, window := c.first, uint16(sliver)
	if c.next != c.first {
		window = open
	}
	if c.honest {
		upTo = c.next
	}
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 500)
		if err := c.send(push|ack, upTo, window, string(rest[:n])); err != nil {
			return 0, err
		}
		c.seq += uint32(n)
		rest = rest[n:]
	}
	return len(b), nil
}

func (c *ownTCP) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

func (c *ownTCP) SetDeadline(time.Time) error { return os.ErrNoDeadline }

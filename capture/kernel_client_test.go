package capture_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"relaygate/bpf/bpftest"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// rawClient is a client without a kernel, which says what it likes.
type rawClient struct {
	t             *testing.T
	rng           *rand.Rand
	wire          bpftest.Wire
	to            net.HardwareAddr
	local, remote netip.AddrPort

	isn        uint32
	stream     []byte // what it says, where it does not deviate
	deviates   int    // in how many bytes of a thousand
	odd        bool   // its segments can be damaged, and have odd flags and options
	stamp      uint32 // of its segments (RFC 7323), which have none if 0
	acked      int    // bytes of it that the server acknowledged
	answered   bool
	serverNext uint32
	said       []string
}

func (c *rawClient) chance(percent int) bool { return c.rng.IntN(100) < percent }

// bytes are those of the stream from off on, with deviations.
func (c *rawClient) bytes(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		for len(c.stream) <= off+i {
			c.stream = append(c.stream, "abc\n"[c.rng.IntN(4)])
		}
		b[i] = c.stream[off+i]
		if c.rng.IntN(1000) < c.deviates {
			b[i] = "xyz\n"[c.rng.IntN(4)]
		}
	}
	return b
}

// say sends a segment, off bytes behind the first.
func (c *rawClient) say(off int, tcp layers.TCP, payload []byte) {
	damaged, stamp := false, c.stamp
	if c.stamp != 0 {
		c.stamp += uint32(c.rng.IntN(2))
	}
	if c.odd {
		switch c.rng.IntN(60) {
		case 0:
			damaged = true
		case 1:
			tcp.Ack += uint32(c.rng.IntN(100)) - 50
		case 2:
			tcp.URG, tcp.Urgent = true, uint16(c.rng.IntN(20))
		case 3:
			tcp.FIN = true
		case 4:
			tcp.SYN = true
		case 5:
			tcp.ACK = false
		case 6:
			tcp.RST = true
		case 7, 8:
			stamp -= min(stamp, uint32(c.rng.IntN(20))) // the kernel takes no older one, nor none
		case 9: // a signature (RFC 2385), of which no server knows
			tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: 19, OptionLength: 18, OptionData: make([]byte, 16)})
		case 10:
			tcp.NS, tcp.CWR, tcp.ECE = true, true, true
		}
	}
	if stamp != 0 {
		data := binary.BigEndian.AppendUint32(nil, stamp)
		tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: append(data, 0, 0, 0, 0)})
	}
	tcp.Seq, tcp.Window = c.isn+1+uint32(off), 60000
	if c.chance(10) {
		tcp.Window = uint16(c.rng.IntN(40))
	}
	c.said = append(c.said, fmt.Sprintf("%d %q SYN %v ACK %v FIN %v RST %v URG %v damaged %v options %v", off, payload,
		tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.URG, damaged, tcp.Options))
	frame := bpftest.Segment(c.t, c.to, c.local, c.remote, tcp, string(payload))
	if damaged {
		frame[14+20+16] ^= 0x55 // the checksum
	}
	must(c.t, c.wire.Send(frame))
}

// hear takes what the server sent.
func (c *rawClient) hear() {
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(c.wire.FD, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		packet := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
		tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || uint16(tcp.DstPort) != c.local.Port() || tcp.RST {
			continue
		}
		if tcp.SYN {
			c.isn, c.serverNext, c.answered = tcp.Ack-1, tcp.Seq+1, true
			continue
		}
		c.acked = max(c.acked, int(int32(tcp.Ack-c.isn-1)))
		if tcp.Seq == c.serverNext {
			c.serverNext += uint32(len(tcp.Payload))
		}
	}
}

// play connects, honestly or not, and says some things around what the server waits for.
func (c *rawClient) play() {
	said := func() layers.TCP { return layers.TCP{ACK: true, PSH: true, Ack: c.serverNext} }
	if c.chance(50) {
		c.stamp = 1 + c.rng.Uint32N(1000)
	}
	c.say(-1, layers.TCP{SYN: true}, nil)
	if c.hear(); !c.answered {
		return
	}
	off, n := 0, 0
	if c.odd && c.chance(30) {
		off, n = c.rng.IntN(30)*c.rng.IntN(2), c.rng.IntN(12)
	}
	c.say(off, said(), c.bytes(off, n))
	for range 5 + c.rng.IntN(30) {
		if c.chance(60) {
			c.hear()
		}
		switch c.rng.IntN(8) {
		case 0:
			c.say(max(0, c.acked-c.rng.IntN(10)), said(), nil)
		case 1:
			if c.acked > 0 {
				c.say(c.acked-1, said(), []byte{0}) // it keeps alive, with a byte of garbage
			}
		case 2:
			off := max(0, c.acked-c.rng.IntN(10))
			c.say(off, said(), c.bytes(off, 1+c.rng.IntN(20)))
		case 3:
			off := c.acked + []int{1 << 14, 1 << 16, 200000}[c.rng.IntN(3)] + c.rng.IntN(10)
			if c.odd && c.chance(20) {
				c.say(off, said(), make([]byte, 1+c.rng.IntN(10)))
			}
		default:
			off := c.acked + c.rng.IntN(25)*c.rng.IntN(2)
			c.say(off, said(), c.bytes(off, 1+c.rng.IntN(15)))
		}
	}
	c.hear()
}

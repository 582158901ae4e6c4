package bpf_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// Places in a frame of IPv4 and TCP without options.
const (
	tcpAt     = 14 + 20
	payloadAt = tcpAt + 20
)

// TestWireUnfinished has a client on a gateway, as guests and containers are, leave a
// checksum to the kernel, which fills it in behind the tap: where the TCP header has its
// place for it, or among the words that the mail server reads.
func TestWireUnfinished(t *testing.T) {
	const command = "a1 LOGIN alice guessAA\r\n"
	filled := strings.Index(command, "AA")
	for _, test := range []struct {
		name      string
		start, at int // of what is summed up, and of the sum, in the frame
		lost      bool
	}{
		{"in the TCP header", tcpAt, tcpAt + 16, false},
		{"in the payload", payloadAt, payloadAt + filled, true},
		{"in the payload, as far from its beginning as in a TCP header", payloadAt + filled - 16, payloadAt + filled, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t)
			tap := p.tap(t)
			client, server := p.dial(t, "198.51.100.25:61143")
			bpftest.Send(t, server, client, "* OK\r\n")
			opened := rest(t, tap)[0]
			frame := bpftest.Segment(t, bpftest.Interface(t, p.server, "eth0").HardwareAddr,
				client.LocalAddr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort("198.51.100.25:61143"),
				layers.TCP{Seq: opened.ClientISN, Ack: opened.ServerISN + uint32(len("* OK\r\n")), PSH: true, ACK: true, Window: 500}, command)
			prepare(frame, test.start, test.at)
			bpftest.Do(t, p.client, func() error {
				return errors.Join(netns.SetOffload("lan", false, unix.ETHTOOL_STXCSUM), injectUnfinished(p.index, frame, test.start, test.at))
			})
			read := make([]byte, len(command))
			patient(t, server)
			if n, err := server.Read(read); err != nil || n != len(command) {
				t.Fatalf("the server read %q, %v", read[:n], err)
			}
			if (string(read) == command) == test.lost {
				t.Errorf("the server read %q: the test proves nothing", read)
			}
			got := rest(t, tap)
			if lost := got[0].Kind == bpf.Lost && got[0].Reason == bpf.Unfinished; lost != test.lost {
				t.Errorf("records are %+v; the server read %q", got, read)
			}
		})
	}
}

// prepare makes the checksums of a frame right for when the sum has been filled in.
func prepare(frame []byte, start, at int) {
	place := frame[at : at+2]
	pseudo := make([]byte, 12) // RFC 9293 §3.1
	copy(pseudo, frame[26:34])
	pseudo[9] = unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(pseudo[10:], uint16(len(frame)-tcpAt))
	check := frame[tcpAt+16 : tcpAt+18]
	if at == tcpAt+16 { // it holds what is to be added
		binary.BigEndian.PutUint16(check, ^checksum(pseudo))
		return
	}
	shown := [2]byte(place)
	binary.BigEndian.PutUint16(place, checksum(frame[start:]))
	copy(check, []byte{0, 0})
	binary.BigEndian.PutUint16(check, checksum(append(pseudo, frame[tcpAt:]...)))
	copy(place, shown[:])
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// injectUnfinished puts a frame on an interface whose checksum is yet to be filled in.
func injectUnfinished(index int, frame []byte, start, at int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	header := make([]byte, 10, 10+len(frame)) // struct virtio_net_hdr
	header[0] = 1                             // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(header[6:], uint16(start))
	binary.NativeEndian.PutUint16(header[8:], uint16(at-start))
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	if err == nil {
		err = unix.Sendto(fd, append(header, frame...), 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: unix.ETH_P_IP << 8 & 0xffff})
	}
	return errors.Join(err, unix.Close(fd))
}

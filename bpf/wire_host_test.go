package bpf_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// TestWireForwarded has a container send what the host's mail server would say, to
// a client that it is in league with: the host forwards it. That the connection is
// in the host's socket tables proves nothing then.
func TestWireForwarded(t *testing.T) {
	for name, forwards := range map[string]bool{"servers here": false, "servers in other namespaces too": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			container := bpftest.Namespace(t)
			err := netns.Join(p.server, "docker0", []netip.Prefix{netip.MustParsePrefix("2001:db8:d0::1/64")},
				container, "eth0", []netip.Prefix{netip.MustParsePrefix("2001:db8:d0::2/64")})
			if err != nil {
				t.Fatal(err)
			}
			bpftest.Do(t, p.server, func() error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0)
			})
			w, err := bpf.LoadWire(bpf.WireOptions{
				Ports: []uint16{port}, Forwards: forwards, Servers: []netip.Prefix{netip.MustParsePrefix("::/0")},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { bpftest.Close(t, w) })
			w.HurryUp()
			bpftest.Do(t, p.server, func() error {
				i, err := net.InterfaceByName("eth0")
				if err != nil {
					return err
				}
				return w.Attach(i.Index)
			})

			client, server := p.dial(t, "[2001:db8:25::25]:61143")
			bpftest.Send(t, server, client, "+OK ready\r\n")
			bpftest.Send(t, client, server, "USER alice\r\nPASS guess\r\n")
			got := collect(t, w, func(s seen) bool { return strings.HasPrefix(s.payload, "USER") })
			from, to := server.LocalAddr().(*net.TCPAddr).AddrPort(), client.LocalAddr().(*net.TCPAddr).AddrPort()
			next := got[0].ServerISN + uint32(len("+OK ready\r\n"))
			acked := got[0].ClientISN + uint32(len("USER alice\r\nPASS guess\r\n"))
			const forgery = "+OK\r\n+OK forged\r\n"
			mac := hardwareAddr(t, p.server, "docker0")
			bpftest.Do(t, container, func() error {
				return inject("eth0", append(append(mac, 2, 0, 0, 0, 0, 9, 0x86, 0xdd), segment6(from, to, next, acked, forgery)...))
			})
			read := make([]byte, len(forgery))
			patient(t, client)
			if _, err := io.ReadFull(client, read); err != nil || string(read) != forgery {
				t.Fatalf("the client read %q, %v: the test proves nothing", read, err)
			}
			got = append(got, rest(t, w)...)
			forged := 0
			for _, r := range got {
				if strings.Contains(r.payload, "+OK forged") {
					forged++
				}
			}
			c, err := w.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 1}[forwards]; forged != want || int(c.Forged) != 1-want {
				t.Errorf("%d forged segments are recorded and %d refused, want %d", forged, c.Forged, want)
			}
			if text := dialogueOf(got); !forwards && text != "S:+OK ready\r\nC:USER alice\r\nPASS guess\r\n" {
				t.Errorf("dialogue is %q", text)
			}
		})
	}
}

// segment6 is segment for IPv6.
func segment6(from, to netip.AddrPort, seq, ack uint32, payload string) []byte {
	nowhere := netip.IPv4Unspecified()
	tcp := segment(netip.AddrPortFrom(nowhere, from.Port()), netip.AddrPortFrom(nowhere, to.Port()), seq, payload)[20:]
	b := append(make([]byte, 40), tcp...)
	copy(b[8:], from.Addr().AsSlice())
	copy(b[24:], to.Addr().AsSlice())
	// The pseudo header (RFC 8200 §8.1) has the same sum.
	b[5], b[7] = byte(len(tcp)), 6
	binary.BigEndian.PutUint32(b[48:], ack)
	binary.BigEndian.PutUint16(b[56:], 0)
	binary.BigEndian.PutUint16(b[56:], checksum(b))
	b[0], b[6], b[7] = 6<<4, 6, 64
	return b
}

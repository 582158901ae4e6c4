package netns_test

import (
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// What is sent as soon as two namespaces are joined arrives, and not only when it is sent
// again, as TCP and ARP do.
func TestJoinedNamespacesPassPackets(t *testing.T) {
	const rounds = 50
	lost := 0
	for range rounds {
		a, b := bpftest.Namespace(t), bpftest.Namespace(t)
		bpftest.Must(t, netns.Join(a, "left", nil, b, "right", nil))
		right, left := open(t, b, "right"), open(t, a, "left")
		if !passes(t, left, right) {
			lost++
		}
		if !passes(t, right, left) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("of %d packets %d were lost", 2*rounds, lost)
	}
}

// A test that fails within a namespace ends its goroutine there, and must not hang for that.
func TestWhatDoesNotReturnIsAnError(t *testing.T) {
	err := bpftest.Namespace(t).Do(func() error {
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("there is no error")
	}
}

// experimental is an EtherType for what it is named after, in network byte order.
const experimental = 0xb588

// end is a packet socket on an interface.
type end struct{ fd, index int }

func open(t *testing.T, ns *netns.Namespace, name string) (e end) {
	t.Helper()
	bpftest.Do(t, ns, func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		e.index = i.Index
		e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, experimental)
		return err
	})
	t.Cleanup(func() { bpftest.Must(t, unix.Close(e.fd)) })
	bpftest.Must(t, unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	bpftest.Must(t, unix.SetsockoptInt(e.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	return e
}

// passes sends one packet and waits for it.
func passes(t *testing.T, from, to end) bool {
	t.Helper()
	everybody := &unix.SockaddrLinklayer{Ifindex: from.index, Protocol: experimental, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	bpftest.Must(t, unix.Sendto(from.fd, []byte("x"), 0, everybody))
	n, err := unix.Read(to.fd, make([]byte, 100))
	return err == nil && n > 0
}

package bpf_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// control runs fn on the descriptor of a socket.
func control(c syscall.RawConn, fn func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = fn(int(fd)) }); e != nil {
		return e
	}
	return err
}

func hardwareAddr(t testing.TB, ns *netns.Namespace, name string) net.HardwareAddr {
	t.Helper()
	var mac net.HardwareAddr
	bpftest.Do(t, ns, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	return mac
}

// inject puts a frame on an interface of the thread's namespace.
func inject(name string, frame []byte) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index})
	return errors.Join(err, unix.Close(fd))
}

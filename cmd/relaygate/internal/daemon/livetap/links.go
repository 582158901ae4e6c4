package livetap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// links hears of the interfaces that come (rtnetlink(7)). The kernel tells of one before
// anything can come in by it, and what it told can be read at once.
type links struct {
	fd  int
	buf [64 << 10]byte
}

func openLinks() (*links, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to changes of interfaces: %w", err), unix.Close(fd))
	}
	return &links{fd: fd}, nil
}

// came says whether the kernel told of an interface that is not known, since it was
// asked last, or of more than there was room for.
func (l *links) came(known func(index int) bool) (came bool, err error) {
	for {
		n, _, err := unix.Recvfrom(l.fd, l.buf[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return came, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			came = true
			continue
		case err != nil:
			return came, fmt.Errorf("read changes of interfaces: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(l.buf[:n])
		if err != nil {
			return true, nil //nolint:nilerr // what is not understood may be one
		}
		for _, m := range messages {
			const at = 4 // of the index in struct ifinfomsg
			came = came || len(m.Data) < at+4 || !known(int(binary.NativeEndian.Uint32(m.Data[at:])))
		}
	}
}

func (l *links) close() error {
	if err := unix.Close(l.fd); err != nil {
		return fmt.Errorf("close rtnetlink socket: %w", err)
	}
	return nil
}

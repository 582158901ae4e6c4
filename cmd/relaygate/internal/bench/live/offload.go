package live

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// offloads are what lets packets be larger than the MTU, as ethtool sets them
// (linux/ethtool.h).
var offloads = []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO}

// offload turns them on or off at both ends of the cable.
func (w *world) offload(on bool) {
	for iface, ns := range map[string]*netns.Namespace{serverPort: w.serverNS, clientPort: w.clientNS} {
		must.Do(ns.Do(func() error { return setOffload(iface, on) }))
	}
}

func setOffload(iface string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	var errs []error
	for _, command := range offloads {
		value := struct{ command, data uint32 }{command: command} // struct ethtool_value
		if on {
			value.data = 1
		}
		request := struct { // struct ifreq
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], iface)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			errs = append(errs, fmt.Errorf("set an offload of %s: %w", iface, errno))
		}
	}
	return errors.Join(append(errs, unix.Close(fd))...)
}

package netns

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetOffload turns on or off what an interface of the current namespace does for the kernel,
// by commands of ethtool (linux/ethtool.h) such as unix.ETHTOOL_STXCSUM.
func SetOffload(name string, on bool, commands ...uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	var errs []error
	for _, command := range commands {
		value := struct{ command, data uint32 }{command: command} // struct ethtool_value
		if on {
			value.data = 1
		}
		request := struct { // struct ifreq
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			errs = append(errs, fmt.Errorf("set an offload of %s: %w", name, errno))
		}
	}
	return errors.Join(append(errs, unix.Close(fd))...)
}

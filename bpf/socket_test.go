package bpf_test

import (
	"syscall"
)

// control runs fn on the descriptor of a socket.
func control(c syscall.RawConn, fn func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = fn(int(fd)) }); e != nil {
		return e
	}
	return err
}

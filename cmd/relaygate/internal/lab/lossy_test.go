package lab_test

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// lossy is a cable between two interfaces of a namespace that loses, doubles and
// reorders frames.
type lossy struct {
	rng     *rand.Rand
	percent int // of the frames that suffer something
	ends    [2]int
	stop    [2]int // a pipe
	running sync.WaitGroup
	suffers [3]int // lost, doubled, held back
}

// newLossy joins the interfaces a and b of a namespace until the test ends.
func newLossy(t *testing.T, ns *netns.Namespace, a, b string, percent int, seed uint64) *lossy {
	t.Helper()
	l := &lossy{rng: rand.New(rand.NewPCG(seed, 2)), percent: percent}
	bpftest.In(t, ns, func() {
		for i, name := range []string{a, b} {
			iface, err := net.InterfaceByName(name)
			must(t, err)
			// A protocol from the start would bring frames of all interfaces.
			l.ends[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			must(t, err)
			err = errors.Join(
				unix.SetsockoptInt(l.ends[i], unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
				unix.Bind(l.ends[i], &unix.SockaddrLinklayer{Protocol: uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00), Ifindex: iface.Index}))
			must(t, err)
		}
		must(t, unix.Pipe2(l.stop[:], unix.O_CLOEXEC))
	})
	l.running.Go(l.run)
	t.Cleanup(func() {
		must(t, unix.Close(l.stop[1]))
		l.running.Wait()
		for _, fd := range append(l.ends[:], l.stop[0]) {
			must(t, unix.Close(fd))
		}
		t.Logf("%d frames lost, %d doubled, %d held back", l.suffers[0], l.suffers[1], l.suffers[2])
	})
	return l
}

// run carries frames until the end of the pipe. One that is held back goes out
// behind the next one, or after a moment.
func (l *lossy) run() {
	var held [2][]byte
	polls := []unix.PollFd{
		{Fd: int32(l.ends[0]), Events: unix.POLLIN}, {Fd: int32(l.ends[1]), Events: unix.POLLIN}, {Fd: int32(l.stop[0]), Events: unix.POLLIN},
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Poll(polls, 3)
		if polls[2].Revents != 0 || err != nil && err != unix.EINTR {
			return
		}
		for i := range 2 {
			if n == 0 && held[i] != nil {
				_, _ = unix.Write(l.ends[1-i], held[i])
				held[i] = nil
			}
			size, err := unix.Read(l.ends[i], buf)
			if err != nil {
				continue
			}
			frame := buf[:size]
			switch fate := l.rng.IntN(300); {
			case fate < l.percent:
				l.suffers[0]++
				continue
			case fate < 2*l.percent:
				l.suffers[1]++
				_, _ = unix.Write(l.ends[1-i], frame)
			case fate < 3*l.percent && held[i] == nil:
				l.suffers[2]++
				held[i] = append([]byte(nil), frame...)
				continue
			}
			_, _ = unix.Write(l.ends[1-i], frame)
			if held[i] != nil {
				_, _ = unix.Write(l.ends[1-i], held[i])
				held[i] = nil
			}
		}
	}
}

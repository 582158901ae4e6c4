package bpf_test

import (
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// TestBurdenedHandshake: the segment that establishes a connection is the listener's. What
// it brings beside an acknowledgement is seen in order alone; else it changes what the
// server reads.
func TestBurdenedHandshake(t *testing.T) {
	for name, last := range map[string]struct {
		flags   byte
		ahead   uint32
		payload string
		want    bpf.Reason
	}{
		"acknowledgement":  {ack, 0, "", bpf.None},
		"pushed":           {push | ack, 0, "", bpf.None},
		"a byte":           {ack, 0, "x", bpf.None},
		"behind its place": {ack, 1<<32 - 1, "xy", bpf.FastOpen},
		"ahead of a hole":  {ack, 100, "x", bpf.FastOpen},
		"FIN":              {fin | ack, 0, "", bpf.FastOpen},
		"FIN ahead":        {fin | ack, 100, "", bpf.FastOpen},
		"urgent pointer":   {urg | ack, 0, "", bpf.FastOpen},
	} {
		t.Run(name, func(t *testing.T) {
			tap, host, outside, at := hostOnLAN(t)
			l := bpftest.Listen(t, host, "tcp", at.String())
			c := halfTCP(t, host, outside, lanClient, at)
			c.seq += last.ahead
			must(t, c.send(last.flags, c.first, open, last.payload))
			bpftest.Accept(t, l)
			if got := rest(t, tap); len(got) == 0 || got[0].Kind != bpf.Opened || got[0].Reason != last.want {
				t.Errorf("records are %+v, want Opened because %q first", got, last.want)
			}
		})
	}
}

var lanClient = netip.MustParseAddrPort("192.0.2.7:50000")

// hostOnLAN is a tapped host, with the address where it may listen, and a neighbour.
func hostOnLAN(t *testing.T) (tap *bpf.Tap, host, outside *netns.Namespace, at netip.AddrPort) {
	t.Helper()
	host, outside = bpftest.Namespace(t), bpftest.Namespace(t)
	at = netip.MustParseAddrPort("192.0.2.1:61143")
	must(t, netns.Join(host, "lan", []netip.Prefix{netip.PrefixFrom(at.Addr(), 24)}, outside, "wan", nil))
	return load(t, host), host, outside, at
}

// TestHastyClient sends bytes ahead of a hole beside the last acknowledgement, on another
// processor, while the first one has the socket and not yet told the tap. The kernel keeps
// them and drops the copy that the tap sees.
func TestHastyClient(t *testing.T) {
	if runtime.NumCPU() == 1 {
		return // nothing is beside anything
	}
	delay(t, port)
	tap, host, outside, at := hostOnLAN(t)
	l := bpftest.Listen(t, host, "tcp", at.String())
	const hidden, shown = "NOOP 1 2\r\n", "LOGIN 1 2\n"
	for i := range uint16(300) { // beside other tests few are quick enough
		c := halfTCP(t, host, outside, netip.AddrPortFrom(lanClient.Addr(), lanClient.Port()+i), at)
		begun, told := make(chan struct{}), make(chan error)
		go func() {
			told <- on(0, func() error {
				close(begun)
				return c.send(ack, c.first, open, "")
			})
		}()
		ahead := *c
		ahead.seq += 3
		<-begun
		err := on(1, func() error {
			time.Sleep(time.Millisecond)
			return ahead.send(push|ack, c.first, open, hidden)
		})
		must(t, first(err, <-told, ahead.send(push|ack, c.first, open, shown), c.send(push|ack, c.first, open, "a1 ")))
		server := bpftest.Accept(t, l)
		got := make([]byte, len("a1 "+hidden))
		if _, err := io.ReadFull(server, got); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(server, "a1 OK done\r\n"); err != nil {
			t.Fatal(err)
		}
		all := rest(t, tap)
		cookie, lost := cookieOf(t, all, &ahead), false
		all = slices.DeleteFunc(all, func(s seen) bool { return s.Cookie != cookie }) // others are told again
		text := dialogueOf(all)
		if string(got) != "a1 "+hidden || strings.Contains(text, hidden) || all[0].Reason != bpf.None {
			continue // it came late and was seen, or first and so was the handshake's
		}
		if strings.Contains(text, "OK") {
			t.Errorf("the tap says %q, and the server read %q", text, got)
		}
		for _, r := range all {
			lost = lost || r.Kind == bpf.Lost && r.Reason == bpf.FastOpen
		}
		if !lost {
			t.Errorf("the records are %+v, want a loss", all)
		}
		return
	}
	t.Fatal("no client was quick enough: the test proves nothing")
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// on runs fn on a processor.
func on(cpu int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("stay on processor %d: %w", cpu, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// delay has each connection to a port wait some milliseconds before the tap is told of it.
func delay(t *testing.T, port uint16) {
	t.Helper()
	root, err := bpf.RootCgroup()
	must(t, err)
	const opAt, localPortAt, passiveEstablished, rounds = 0, 68, 5, 60_000 // struct bpf_sock_ops
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "MIT",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, opAt, asm.Word),
			asm.JNE.Imm(asm.R2, passiveEstablished, "end"),
			asm.LoadMem(asm.R2, asm.R1, localPortAt, asm.Word),
			asm.JNE.Imm(asm.R2, int32(port), "end"),
			asm.Mov.Imm(asm.R6, rounds),
			asm.FnKtimeGetNs.Call().WithSymbol("again"),
			asm.Sub.Imm(asm.R6, 1),
			asm.JNE.Imm(asm.R6, 0, "again"),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("end"),
			asm.Return(),
		},
	})
	must(t, err)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: ebpf.AttachCGroupSockOps, Program: prog})
	must(t, err)
	t.Cleanup(func() {
		bpftest.Close(t, l)
		bpftest.Close(t, prog)
	})
}

// TestHastyElsewhere: bytes that come early put nobody else's connection in doubt where they
// are for a listener that is not believed, as in a container.
func TestHastyElsewhere(t *testing.T) {
	for name, test := range map[string]struct{ trusted, places int }{"trusted": {0, 1}, "another": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			ns := []*netns.Namespace{bpftest.Namespace(t), bpftest.Namespace(t)}
			tap := load(t, ns[test.trusted])
			// More than a SYN has room for: the rest ends the handshake.
			hasten(t, ns[0], strings.Repeat("x", 100_000))
			if n := tap.Hasty(t); n != test.places {
				t.Errorf("%d places, want %d", n, test.places)
			}
		})
	}
}

// hasten sends data with the handshake.
func hasten(t *testing.T, ns *netns.Namespace, data string) {
	t.Helper()
	l, client := fastOpen(t, ns, data)
	defer l.Close()
	defer unix.Close(client)
	server := bpftest.Accept(t, l)
	patient(t, server)
	if _, err := io.ReadFull(server, make([]byte, len(data))); err != nil {
		t.Fatal(err)
	}
}

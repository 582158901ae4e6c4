package livetap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/capture"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// A tap that could not be looked at, for want of memory say, is no problem any more when
// it can be.
func TestTapThatCouldNotBeSeen(t *testing.T) {
	bpftest.RequireRoot(t)
	programs, err := bpf.Load(bpf.Options{Ports: []uint16{61154}, Owners: []uint32{0}})
	must(t, err)
	defer func() {
		must(t, programs.Close())
	}()
	var log strings.Builder
	tap := &ringTap{programs: programs, log: slog.New(slog.NewTextHandler(&log, nil)), hub: control.NewHub()}
	words := "whether the tap is attached cannot be seen: no memory"
	tap.lost.Store(&words)
	for range 2 {
		must(t, tap.reattach(func([]uint64) error { return nil }))
	}
	if words := tap.lost.Load(); words != nil {
		t.Errorf("it is attached, and still it says: %s", *words)
	}
	if strings.Count(log.String(), "could not be seen") != 1 {
		t.Errorf("the log does not tell once that it can be seen again:\n%s", log.String())
	}
}

// Another sockops program has sockets ask for what it wants alone, as the kernel's own
// samples do: connections that are over are found all the same, and nobody else's end.
func TestEndsThatTheKernelDoesNotTell(t *testing.T) {
	const port, addr = 61154, "127.0.0.1:61154"
	ns := bpftest.Namespace(t)
	held, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	defer bpftest.Close(t, held)
	spaces := []*bpf.Netns{held}
	programs, err := bpf.Load(bpf.Options{Ports: []uint16{port}, Netns: spaces, Owners: []uint32{0}})
	must(t, err)
	defer bpftest.Close(t, programs)
	mute(t, port)
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{port}, Netns: spaces})
	must(t, err)
	defer bpftest.Close(t, tables)
	var log strings.Builder
	tap := &ringTap{
		Ring: capture.NewRing(programs), programs: programs, trust: &Trust{tables: tables},
		log: slog.New(slog.NewTextHandler(&log, nil)), hub: control.NewHub(),
	}

	l := bpftest.Listen(t, ns, "tcp", addr)
	must(t, programs.SetServers(nil)) // from now on handshakes are noted
	over, server := bpftest.Dial(t, ns, addr), bpftest.Accept(t, l)
	bpftest.Send(t, server, over, "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03"+strings.Repeat("r", 32)+"\x00\x13\x01\x00")
	bpftest.Dial(t, ns, addr)
	bpftest.Accept(t, l)
	leaving := bpftest.Dial(t, ns, addr) // whose server does not end it yet
	bpftest.Accept(t, l)
	var ev capture.Event
	must(t, tap.Ring.Next(&ev))
	cookie := ev.Conn.Cookie
	bpftest.Close(t, over)
	bpftest.Close(t, server)
	bpftest.Close(t, leaving)
	tap.SetDeadline(time.Now().Add(-time.Second))
	for err := error(nil); !errors.Is(err, os.ErrDeadlineExceeded); err = tap.Ring.Next(&ev) {
		must(t, err)
		if ev.Kind == capture.Closed {
			t.Fatal("the end was told: the test proves nothing")
		}
	}
	var told []uint64
	ended := errors.New("the daemon ends")
	for i, want := range [][]uint64{nil, {cookie}, nil, nil} {
		told = nil
		err := tap.sweep(func(cookies []uint64) error { told = cookies; return ended })
		if !slices.Equal(told, want) || errors.Is(err, ended) != (want != nil) {
			t.Errorf("sweep %d: told of %v, %v, want %v", i, told, err, want)
		}
	}
	left, err := programs.Known()
	if len(left) != 2 || err != nil || slices.Contains(left, cookie) {
		t.Errorf("known are %v (%v), want those that are not over", left, err)
	}
	if n := strings.Count(log.String(), "connections=1"); n != 1 || tap.over.Load() != 1 {
		t.Errorf("%d are counted, and the log says %d times:\n%s", tap.over.Load(), n, log.String())
	}
}

// TestListenerInAnothersPlace: who takes the mail server's place is not believed for it,
// though the tables were looked at before, nor once it is back; and it is, also by those who
// came before it was known.
func TestListenerInAnothersPlace(t *testing.T) {
	const port, addr = 61154, "127.0.0.1:61154"
	ns := bpftest.Namespace(t)
	held, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	defer bpftest.Close(t, held)
	spaces, owners := []*bpf.Netns{held}, []uint32{0}
	programs, err := bpf.Load(bpf.Options{Ports: []uint16{port}, Netns: spaces, Owners: owners})
	must(t, err)
	defer bpftest.Close(t, programs)
	mail := bpftest.Listen(t, ns, "tcp", addr)
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{port}, Netns: spaces, Owners: owners})
	must(t, err)
	defer bpftest.Close(t, tables)
	tap := &ringTap{Ring: capture.NewRing(programs), programs: programs, trust: &Trust{tables: tables}}
	opened := func(l net.Listener) (ev capture.Event) {
		t.Helper()
		bpftest.Dial(t, ns, addr)
		bpftest.Accept(t, l)
		tap.SetDeadline(time.Now().Add(10 * time.Second))
		must(t, tap.Next(&ev))
		if ev.Kind != capture.Opened {
			t.Fatalf("got %+v, want a connection that opened", ev)
		}
		return ev
	}
	confirm := func(ev capture.Event) (authz.Belief, string) {
		t.Helper()
		if !ev.Trusted {
			t.Fatalf("it is disbelieved because %q", ev.Reason)
		}
		return tap.trust.Confirm(ev.Conn, engine.Opening{Time: ev.Time, Listener: ev.Listener})
	}
	if belief, reason := confirm(opened(mail)); belief != authz.Believed {
		t.Errorf("the mail server: %v because %q", belief, reason)
	}
	bpftest.Close(t, mail)
	between := bpftest.Listen(t, ns, "tcp", addr)
	passed := opened(between)
	if belief, reason := confirm(passed); belief != authz.Undecided || !strings.Contains(reason, "nobody is known") {
		t.Errorf("another in its place: %v because %q", belief, reason)
	}
	bpftest.Close(t, between)
	restarted := opened(bpftest.Listen(t, ns, "tcp", addr)) // before anybody looks

	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- tables.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ran)
	}()
	belief, reason := confirm(restarted)
	for until := time.Now().Add(10 * time.Second); belief == authz.Undecided && time.Now().Before(until); time.Sleep(time.Millisecond) {
		belief, reason = confirm(restarted)
	}
	if belief != authz.Believed {
		t.Errorf("once its holders are known, the mail server is %v because %q", belief, reason)
	}
	if belief, reason := confirm(passed); belief != authz.Undecided || !strings.Contains(reason, "nobody is known") {
		t.Errorf("whom another accepted who was there in between: %v because %q", belief, reason)
	}
}

// mute attaches a program that lets the sockets of a port tell nothing.
func mute(t *testing.T, port int32) {
	t.Helper()
	const op, localPort, passiveEstablished = 0, 68, 5 // of struct bpf_sock_ops
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SockOps, Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, op, asm.Word),
		asm.JNE.Imm(asm.R2, passiveEstablished, "out"),
		asm.LoadMem(asm.R2, asm.R1, localPort, asm.Word),
		asm.JNE.Imm(asm.R2, port, "out"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnSockOpsCbFlagsSet.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
		asm.Return(),
	}})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, program) })
	root, err := bpf.RootCgroup()
	must(t, err)
	l, err := bpflink.AttachCgroup(bpflink.CgroupOptions{Path: root, Attach: ebpf.AttachCGroupSockOps, Program: program})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, l) })
}

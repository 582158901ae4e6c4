package bpf_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// leadTo has a listener accept all connections of a namespace to port, as TPROXY rules
// and programs of this kind do.
func leadTo(t *testing.T, ns *netns.Namespace, l net.Listener, port int32) {
	t.Helper()
	const localPortAt = 60 // in struct bpf_sk_lookup
	sockets := socketMap(t)
	put(t, sockets, l)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R2, asm.R1, localPortAt, asm.Word),
			asm.JNE.Imm(asm.R2, port, "pass"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, sockets.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R7),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnSkAssign.Call(),
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.FnSkRelease.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
			asm.Return(),
		},
	})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, prog) })
	on, err := link.AttachNetNs(ns.FD(), prog)
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, on) })
}

// socketMap is a map for up to two sockets.
func socketMap(t *testing.T) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, m) })
	return m
}

// put fills it. The map's programs are those of the sockets then.
func put(t *testing.T, m *ebpf.Map, sockets ...any) {
	t.Helper()
	for i, s := range sockets {
		raw, err := s.(syscall.Conn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) { err = m.Put(uint32(i), uint64(fd)) }))
		must(t, err)
	}
}

// TestListenerAtAnotherPort has root's proxy take what is for the mail server's port.
// The socket that the kernel makes for it has that port all the same.
func TestListenerAtAnotherPort(t *testing.T) {
	for _, test := range []struct{ addr, proxy string }{
		{"127.0.0.1:61143", "127.0.0.1:61110"},
		{"[::1]:61143", "[::1]:61110"},
	} {
		t.Run(test.addr, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			mail := bpftest.Listen(t, ns, "tcp", test.addr)
			login(t, bpftest.Dial(t, ns, test.addr), bpftest.Accept(t, mail))
			if got := rest(t, tap); len(got) < 2 || got[0].Reason != bpf.None || got[0].Listener != socketCookie(t, mail) {
				t.Fatalf("records are %+v, want a connection that is believed, and listener %d", got, socketCookie(t, mail))
			}
			proxy := bpftest.Listen(t, ns, "tcp", test.proxy)
			leadTo(t, ns, proxy, port)
			login(t, bpftest.Dial(t, ns, test.addr), bpftest.Accept(t, proxy))
			wantUnbelieved(t, tap, bpf.ForeignPort)
		})
	}
}

func socketCookie(t *testing.T, l net.Listener) (cookie uint64) {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) }))
	must(t, err)
	return cookie
}

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestHandedBytes has a program hand a server's socket what its client sends, so that it
// is in no packet, as those do that spare local connections the network stack. A listener
// may be in a map of sockets: those that it accepts are not.
func TestHandedBytes(t *testing.T) {
	for _, at := range []string{"127.0.0.1:61143", "[::1]:61143"} {
		t.Run(at, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			l := bpftest.Listen(t, ns, "tcp", at)
			put(t, socketMap(t), l)
			client, server := bpftest.Dial(t, ns, at), bpftest.Accept(t, l)
			login(t, client, server)
			if got := rest(t, tap); count(got, bpf.Lost) != 0 || dialogueOf(got) == "" {
				t.Fatalf("records are %+v, want those of a login", got)
			}
			sockets := socketMap(t)
			handToFirst(t, sockets)
			put(t, sockets, server, client)
			bpftest.Send(t, client, server, "NOOP\r\n")
			bpftest.Send(t, server, client, "+OK\r\n")
			got := wantLost(t, tap, bpf.Handed, func() { login(t, client, server) })
			if said := dialogueOf(got); said != "" {
				t.Errorf("the tap saw %q", said)
			}
		})
	}
}

// handToFirst has what a client's socket in the map sends be handed to the first there.
func handToFirst(t *testing.T, sockets *ebpf.Map) {
	t.Helper()
	const ingress = 1      // BPF_F_INGRESS
	const localPortAt = 64 // in struct sk_msg_md
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkMsg, License: "GPL", Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, localPortAt, asm.Word),
			asm.Mov.Imm(asm.R0, 1), // SK_PASS
			asm.JEq.Imm(asm.R2, port, "out"),
			asm.LoadMapPtr(asm.R2, sockets.FD()),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, ingress),
			asm.FnMsgRedirectMap.Call(),
			asm.Return().WithSymbol("out"),
		},
	})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, prog) })
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: sockets.FD(), Program: prog, Attach: ebpf.AttachSkMsgVerdict,
	}))
}

package capture

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
)

// maxFilterPorts keeps the jumps of the filter within the 255 instructions that
// a conditional jump can span.
const maxFilterPorts = 64

// packetFilter is the socket filter of the AF_PACKET tap (packet(7), classic
// BPF): TCP segments of the ports, and what only the decoder can tell: IP
// fragments, and IPv6 packets with extension headers. It sees packets from the
// IP header on; a VLAN tag is beside the packet by then.
func packetFilter(ports []uint16) ([]bpf.RawInstruction, error) {
	if len(ports) == 0 || len(ports) > maxFilterPorts {
		return nil, fmt.Errorf("AF_PACKET filter: %d ports, want 1 to %d", len(ports), maxFilterPorts)
	}
	const all = 1 << 20
	accept, drop := bpf.RetConstant{Val: all}, bpf.RetConstant{}
	// either jumps into its own accept if the loaded port is watched.
	either := func(source, destination bpf.Instruction) []bpf.Instruction {
		var code []bpf.Instruction
		for _, load := range []bpf.Instruction{source, destination} {
			code = append(code, load)
			for i, port := range ports {
				skip := uint8(len(ports) - i) // over the other ports and a jump
				code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: skip})
			}
			code = append(code, bpf.Jump{Skip: 1}, accept)
		}
		return append(code, drop)
	}
	ipv4 := slices.Concat([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoTCP, SkipTrue: 1},
		drop,
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipFalse: 1},
		accept, // a fragment
		bpf.LoadMemShift{Off: 0},
	}, either(bpf.LoadIndirect{Off: 0, Size: 2}, bpf.LoadIndirect{Off: 2, Size: 2}))

	extensions := []uint32{protoHopByHop, protoRouting, protoFragment, protoAH, protoDestination}
	ipv6 := []bpf.Instruction{bpf.LoadAbsolute{Off: 6, Size: 1}}
	for i, proto := range extensions {
		ipv6 = append(ipv6, bpf.JumpIf{Cond: bpf.JumpEqual, Val: proto, SkipTrue: uint8(len(extensions) - i + 1)})
	}
	ipv6 = append(ipv6,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoTCP, SkipTrue: 2},
		drop,
		accept)
	ipv6 = append(ipv6, either(bpf.LoadAbsolute{Off: ipv6HeaderLen, Size: 2}, bpf.LoadAbsolute{Off: ipv6HeaderLen + 2, Size: 2})...)

	program := slices.Concat([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipTrue: 1},
		drop,
		bpf.Jump{Skip: uint32(len(ipv4))},
	}, ipv4, ipv6)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble AF_PACKET filter: %w", err)
	}
	return raw, nil
}

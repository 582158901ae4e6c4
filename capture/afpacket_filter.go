package capture

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxFilterPorts and maxFilterInterfaces keep the jumps of the filter within the 255
// instructions that a conditional jump can span.
const (
	maxFilterPorts      = 64
	maxFilterInterfaces = 64
)

// all is more than any packet has bytes.
const all = 1 << 20

var (
	accept = bpf.RetConstant{Val: all}
	drop   = bpf.RetConstant{}
)

// packetFilter is the socket filter of the AF_PACKET tap (packet(7), classic
// BPF): TCP segments of the ports, and what only the decoder can tell: IP
// fragments, and IPv6 packets with extension headers. It sees packets from the
// IP header on; a VLAN tag is beside the packet by then.
//
// With inside it is what passes the interfaces; else what comes in for a port by
// whichever, and what leaves from one by these.
func packetFilter(ports []uint16, interfaces []int, inside bool) ([]bpf.RawInstruction, error) {
	if len(ports) == 0 || len(ports) > maxFilterPorts {
		return nil, fmt.Errorf("AF_PACKET filter: %d ports, want 1 to %d", len(ports), maxFilterPorts)
	}
	if len(interfaces) > maxFilterInterfaces {
		return nil, fmt.Errorf("AF_PACKET filter: %d interfaces, want at most %d", len(interfaces), maxFilterInterfaces)
	}
	program := slices.Concat(onlyBy(interfaces), segments(ports, sourcePort, destinationPort))
	if !inside {
		leaves := slices.Concat(onlyBy(interfaces), segments(ports, sourcePort))
		program = slices.Concat([]bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(leaves))},
		}, leaves, segments(ports, destinationPort))
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble AF_PACKET filter: %w", err)
	}
	return raw, nil
}

// onlyBy drops what passes another interface.
func onlyBy(interfaces []int) []bpf.Instruction {
	code := []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtInterfaceIndex}}
	for i, index := range interfaces {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: uint8(len(interfaces) - i)})
	}
	return append(code, drop)
}

// Where ports are in a TCP header (RFC 9293 §3.1).
const (
	sourcePort      = 0
	destinationPort = 2
)

// segments accepts TCP segments that have one of the ports in one of the places.
func segments(ports []uint16, places ...uint32) []bpf.Instruction {
	ipv4 := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoTCP, SkipTrue: 1},
		drop,
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipFalse: 1},
		accept, // a fragment
		bpf.LoadMemShift{Off: 0},
	}
	extensions := []uint32{protoHopByHop, protoRouting, protoFragment, protoAH, protoDestination}
	ipv6 := []bpf.Instruction{bpf.LoadAbsolute{Off: 6, Size: 1}}
	for i, proto := range extensions {
		ipv6 = append(ipv6, bpf.JumpIf{Cond: bpf.JumpEqual, Val: proto, SkipTrue: uint8(len(extensions) - i + 1)})
	}
	ipv6 = append(ipv6,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoTCP, SkipTrue: 2},
		drop,
		accept)
	for _, at := range places {
		ipv4 = append(ipv4, watched(bpf.LoadIndirect{Off: at, Size: 2}, ports)...)
		ipv6 = append(ipv6, watched(bpf.LoadAbsolute{Off: ipv6HeaderLen + at, Size: 2}, ports)...)
	}
	ipv4, ipv6 = append(ipv4, drop), append(ipv6, drop)
	return slices.Concat([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipTrue: 1},
		drop,
		bpf.Jump{Skip: uint32(len(ipv4))},
	}, ipv4, ipv6)
}

// watched accepts if the port that is loaded is one of these.
func watched(load bpf.Instruction, ports []uint16) []bpf.Instruction {
	code := []bpf.Instruction{load}
	for i, port := range ports {
		skip := uint8(len(ports) - i) // over the other ports and a jump
		code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: skip})
	}
	return append(code, bpf.Jump{Skip: 1}, accept)
}

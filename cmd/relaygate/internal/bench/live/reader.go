package live

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// The ring of the usual packet capture: what tcpdump takes.
const (
	readerBlock  = 1 << 20 // bytes
	readerBlocks = 8
	// readerRetire is after how many milliseconds, or a tick of the kernel's timer, a
	// block that is not full is handed over: who is to let a client in waits no longer
	// than he must.
	readerRetire = 1
)

// newReader is a peer of the tap: a process that reads the packets of mail ports
// on the server's interface from a TPACKET_V3 ring
// (Documentation/networking/packet_mmap.rst), and does with each what whoever
// looks for logins must do at the least: it finds the connection that the packet
// belongs to. It has no Task but to be there.
func newReader() func(Task) Result {
	iface := must.Get(net.InterfaceByName(serverPort))
	fd := must.Get(unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	filterPorts(fd, mailPort, idlePort, pairPort)
	must.Do(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3))
	must.Do(unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: readerBlock, Block_nr: readerBlocks, Frame_size: readerBlock, Frame_nr: readerBlocks,
		Retire_blk_tov: readerRetire,
	}))
	ring := must.Get(unix.Mmap(fd, 0, readerBlock*readerBlocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
	must.Do(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols & 0xffff, Ifindex: iface.Index}))
	go readBlocks(fd, ring)
	return func(Task) Result {
		must.Do(errors.New("the reader takes no tasks"))
		return Result{}
	}
}

// filterPorts lets IPv4 TCP segments of some ports through to a socket, as the
// filter "tcp port 110 or ..." of pcap-filter(7) does.
func filterPorts(fd int, ports ...uint32) {
	drop := func(code []bpf.Instruction, otherwise bpf.JumpTest, value uint32) []bpf.Instruction {
		return append(code, bpf.JumpIf{Cond: otherwise, Val: value, SkipFalse: 1}, bpf.RetConstant{})
	}
	code := drop([]bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtProto}}, bpf.JumpNotEqual, unix.ETH_P_IP)
	code = drop(append(code, bpf.LoadAbsolute{Off: 9, Size: 1}), bpf.JumpNotEqual, unix.IPPROTO_TCP)
	code = drop(append(code, bpf.LoadAbsolute{Off: 6, Size: 2}), bpf.JumpBitsSet, 0x1fff) // a later fragment
	code = append(code, bpf.LoadMemShift{Off: 0})
	for _, port := range []uint32{0, 2} {
		code = append(code, bpf.LoadIndirect{Off: port, Size: 2})
		for _, p := range ports {
			code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: p, SkipFalse: 1}, bpf.RetConstant{Val: 1 << 18})
		}
	}
	raw := must.Get(bpf.Assemble(append(code, bpf.RetConstant{})))
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	must.Do(unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
}

// packetsFound keeps the walk from being optimised away.
var packetsFound atomic.Uint64

func readBlocks(fd int, ring []byte) {
	connections := make(map[[12]byte]*connection)
	for block := 0; ; block = (block + 1) % readerBlocks {
		mem := ring[block*readerBlock : (block+1)*readerBlock]
		// The block descriptor is version, offset of private data, then the header.
		head := (*unix.TpacketHdrV1)(unsafe.Pointer(&mem[8]))
		for atomic.LoadUint32(&head.Block_status)&unix.TP_STATUS_USER == 0 {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
		at := int(head.Offset_to_first_pkt)
		for range head.Num_pkts {
			packet := (*unix.Tpacket3Hdr)(unsafe.Pointer(&mem[at]))
			from := at + int(packet.Net)
			find(connections, mem[from:from+int(packet.Snaplen)])
			at += int(packet.Next_offset)
		}
		packetsFound.Add(uint64(head.Num_pkts))
		atomic.StoreUint32(&head.Block_status, unix.TP_STATUS_KERNEL)
	}
}

// connection is what the reader knows of one: nothing but that it has been.
type connection struct{ packets uint64 }

// find counts a packet at its connection.
func find(connections map[[12]byte]*connection, ip []byte) {
	if len(ip) < 20 || len(ip) < int(ip[0]&0xf)*4+20 {
		return
	}
	tcp := ip[int(ip[0]&0xf)*4:]
	var key [12]byte
	source, destination := binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:])
	if source < destination { // from the server
		copy(key[:], ip[16:20])
		copy(key[4:], ip[12:16])
		binary.BigEndian.PutUint16(key[8:], destination)
		binary.BigEndian.PutUint16(key[10:], source)
	} else {
		copy(key[:], ip[12:20])
		copy(key[8:], tcp[:4])
	}
	c := connections[key]
	if c == nil {
		c = &connection{}
		connections[key] = c
	}
	c.packets++
}

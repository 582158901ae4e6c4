//go:build linux

package live

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ring of the usual packet capture: what tcpdump takes.
const (
	readerBlock  = 1 << 20 // bytes
	readerBlocks = 8
	readerRetire = 10 // ms until a block that is not full is handed over
)

// newReader is a peer of the tap: a process that reads every packet of the
// server's interface from a TPACKET_V3 ring
// (Documentation/networking/packet_mmap.rst) and looks at nothing but the
// lengths. It has no Task but to be there.
func newReader() (func(Task) (Result, error), error) {
	iface, err := net.InterfaceByName(serverPort)
	if err != nil {
		return nil, fmt.Errorf("find interface: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	request := unix.TpacketReq3{
		Block_size: readerBlock, Block_nr: readerBlocks, Frame_size: readerBlock, Frame_nr: readerBlocks,
		Retire_blk_tov: readerRetire,
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3),
		unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request))
	if err != nil {
		return nil, fmt.Errorf("make packet ring: %w", err)
	}
	ring, err := unix.Mmap(fd, 0, readerBlock*readerBlocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map packet ring: %w", err)
	}
	const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols & 0xffff, Ifindex: iface.Index}); err != nil {
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	go readBlocks(fd, ring)
	return func(Task) (Result, error) { return Result{}, errors.New("the reader takes no tasks") }, nil
}

// bytesSeen keeps the walk from being optimised away.
var bytesSeen atomic.Uint64

func readBlocks(fd int, ring []byte) {
	for block := 0; ; block = (block + 1) % readerBlocks {
		mem := ring[block*readerBlock : (block+1)*readerBlock]
		// The block descriptor is version, offset of private data, then the header.
		head := (*unix.TpacketHdrV1)(unsafe.Pointer(&mem[8]))
		for atomic.LoadUint32(&head.Block_status)&unix.TP_STATUS_USER == 0 {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
		seen, at := uint64(0), int(head.Offset_to_first_pkt)
		for range head.Num_pkts {
			packet := (*unix.Tpacket3Hdr)(unsafe.Pointer(&mem[at]))
			seen += uint64(packet.Len)
			at += int(packet.Next_offset)
		}
		bytesSeen.Add(seen)
		atomic.StoreUint32(&head.Block_status, unix.TP_STATUS_KERNEL)
	}
}

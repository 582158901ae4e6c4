package capture

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// ringBlock holds at least one super-frame, in bytes, ringBlocks are the
	// blocks: a burst of 8 MiB. As blocks are handed over that are
	// nearly empty, their number is also how long the reader may be kept waiting:
	// 8 larger ones overflowed on a busy host with a few packets in them.
	ringBlock  = 256 << 10
	ringBlocks = 32
	// ringRetire is after how long a block that is not full is handed over, in
	// milliseconds. The kernel looks twice, in ticks of its timer: 7 to 25 ms
	// were measured. That is the price of one wake-up for many packets.
	ringRetire = 1
)

// packetRing is a TPACKET_V3 receive ring of all interfaces
// (Documentation/networking/packet_mmap.rst).
type packetRing struct {
	fd  int
	mem []byte
	// block is the one that is read next, or now if open. left counts its
	// packets to come, of which the first is at pos.
	block, left, pos int
	open             bool
	opened           time.Time
}

// ringPacket is one packet, from its network header on.
type ringPacket struct {
	data    []byte
	wireLen int
	time    time.Time
	kind    uint16 // packet(7), sll_pkttype
	index   int    // of the interface
	vlan    uint16 // identifier, 0 if untagged
}

// openPacketRing opens the ring. The filter is in place before the socket is
// bound, so that nothing else comes in.
func openPacketRing(filter []bpf.RawInstruction) (_ *packetRing, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open AF_PACKET socket: %w", err)
	}
	r := &packetRing{fd: fd}
	defer func() {
		if err != nil {
			_ = r.close()
		}
	}()
	if err := r.setFilter(filter); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("choose TPACKET_V3: %w", err)
	}
	request := unix.TpacketReq3{
		Block_size: ringBlock, Block_nr: ringBlocks,
		Frame_size: ringBlock, Frame_nr: ringBlocks, // frames of a block vary in size
		Retire_blk_tov: ringRetire,
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return nil, fmt.Errorf("make AF_PACKET ring: %w", err)
	}
	r.mem, err = unix.Mmap(fd, 0, ringBlock*ringBlocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map AF_PACKET ring: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}); err != nil {
		return nil, fmt.Errorf("bind AF_PACKET socket: %w", err)
	}
	return r, nil
}

// setFilter replaces the filter of what comes from now on.
func (r *packetRing) setFilter(filter []bpf.RawInstruction) error {
	code := make([]unix.SockFilter, len(filter))
	for i, in := range filter {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach AF_PACKET filter: %w", err)
	}
	return nil
}

func networkOrder(v uint16) uint16 { return be16((*[2]byte)(unsafe.Pointer(&v))[:]) }

func (r *packetRing) header() *unix.TpacketHdrV1 { return r.headerOf(r.block) }

func (r *packetRing) headerOf(block int) *unix.TpacketHdrV1 {
	// The block descriptor is version, offset of private data, then the header.
	return (*unix.TpacketHdrV1)(unsafe.Pointer(&r.mem[block*ringBlock+8]))
}

// full counts the blocks from the next one on that the kernel has handed over.
func (r *packetRing) full() (n int) {
	for n < ringBlocks {
		h := r.headerOf((r.block + n) % ringBlocks)
		if atomic.LoadUint32(&h.Block_status)&unix.TP_STATUS_USER == 0 {
			break
		}
		n++
	}
	return n
}

// begin opens the block that is ready.
func (r *packetRing) begin() {
	h := r.header()
	r.open, r.left, r.pos = true, int(h.Num_pkts), int(h.Offset_to_first_pkt)
	r.opened = time.Now()
}

// since is the time of the open block's first packet.
func (r *packetRing) since() time.Time {
	first := r.header().Ts_first_pkt
	return r.wall(first.Sec, first.Usec) // in fact nanoseconds
}

// wall gives the time of a packet of the open block a monotonic reading, as Ring does:
// how long ago it was no step of the wall clock disturbs.
func (r *packetRing) wall(second, nanosecond uint32) time.Time {
	return r.opened.Add(min(0, time.Unix(int64(second), int64(nanosecond)).Sub(r.opened)))
}

// next returns the next packet of the open block, valid until end.
func (r *packetRing) next() (ringPacket, bool) {
	if r.left == 0 {
		return ringPacket{}, false
	}
	frame := r.mem[r.block*ringBlock : (r.block+1)*ringBlock][r.pos:]
	h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&frame[0]))
	address := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&frame[unix.SizeofTpacket3Hdr]))
	r.left--
	r.pos += int(h.Next_offset)
	vlan := uint16(0)
	if h.Status&unix.TP_STATUS_VLAN_VALID != 0 {
		vlan = uint16(h.Hv1.Vlan_tci) & 0x0fff
	}
	return ringPacket{
		data:    frame[h.Net:][:h.Snaplen],
		wireLen: int(h.Len),
		time:    r.wall(h.Sec, h.Nsec),
		kind:    uint16(address.Pkttype),
		index:   int(address.Ifindex),
		vlan:    vlan,
	}, true
}

// end gives the open block back to the kernel.
func (r *packetRing) end() {
	atomic.StoreUint32(&r.header().Block_status, unix.TP_STATUS_KERNEL)
	r.open = false
	r.block = (r.block + 1) % ringBlocks
}

// drops returns how many packets were lost since the last call.
func (r *packetRing) drops() (uint64, error) {
	stats, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read drop counter of AF_PACKET socket: %w", err)
	}
	return uint64(stats.Drops), nil
}

// failure reads the socket's error.
func (r *packetRing) failure() error {
	code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("read error of AF_PACKET socket: %w", err)
	}
	if errno := unix.Errno(code); errno != 0 {
		return fmt.Errorf("AF_PACKET socket: %w", errno)
	}
	return nil
}

func (r *packetRing) close() error {
	if r.mem != nil {
		if err := unix.Munmap(r.mem); err != nil {
			return fmt.Errorf("unmap AF_PACKET ring: %w", err)
		}
		r.mem = nil
	}
	if err := unix.Close(r.fd); err != nil {
		return fmt.Errorf("close AF_PACKET socket: %w", err)
	}
	return nil
}

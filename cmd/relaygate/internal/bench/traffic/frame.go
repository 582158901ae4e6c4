package traffic

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/netip"
)

const (
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 32 // with the timestamps option (RFC 7323)
	recordLen   = 16
	epoch       = 1_700_000_000 // Unix time of the first packet
)

// The control bits (RFC 9293 §3.1).
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// packet is one TCP segment.
type packet struct {
	at       int64 // microseconds since the start
	toServer bool
	flags    byte
	seq, ack uint32
	payload  []byte
}

// writer writes a pcap file (draft-ietf-opsawg-pcap).
type writer struct {
	out   *bufio.Writer
	head  [recordLen + ethernetLen + ipv6Len + tcpLen]byte
	id    uint16
	bytes int64
	err   error
}

func newWriter(w io.Writer) *writer {
	out := &writer{out: bufio.NewWriterSize(w, 1<<20)}
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	head = append(head, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	head = binary.LittleEndian.AppendUint32(head, 1<<18)
	out.write(binary.LittleEndian.AppendUint32(head, 1)) // Ethernet
	return out
}

func (w *writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
	}
	w.bytes += int64(len(b))
}

func (w *writer) packet(s *session, p *packet) {
	src, dst := s.client, s.server
	if !p.toServer {
		src, dst = dst, src
	}
	ipLen := ipv4Len
	if src.Addr().Is6() {
		ipLen = ipv6Len
	}
	size := ethernetLen + ipLen + tcpLen + len(p.payload)
	clear(w.head[:])
	le := binary.LittleEndian
	le.PutUint32(w.head[0:], uint32(epoch+p.at/1e6))
	le.PutUint32(w.head[4:], uint32(p.at%1e6))
	le.PutUint32(w.head[8:], uint32(size))
	le.PutUint32(w.head[12:], uint32(size))
	frame := w.head[recordLen:]
	station := [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}} // the router, the server
	from, to := station[0], station[1]
	if !p.toServer {
		from, to = to, from
	}
	copy(frame, to[:])
	copy(frame[6:], from[:])
	sum := w.network(frame[12:], src.Addr(), dst.Addr(), tcpLen+len(p.payload))
	tcp := frame[ethernetLen+ipLen:]
	transport(tcp, src.Port(), dst.Port(), p)
	binary.BigEndian.PutUint16(tcp[16:], ^fold(add(add(sum, tcp[:tcpLen]), p.payload)))
	w.write(w.head[:recordLen+ethernetLen+ipLen+tcpLen])
	w.write(p.payload)
}

// network writes the EtherType and the IP header, and returns the sum over the
// pseudo-header (RFC 9293 §3.1).
func (w *writer) network(b []byte, src, dst netip.Addr, length int) uint64 {
	be := binary.BigEndian
	if src.Is6() {
		be.PutUint16(b, 0x86dd)
		ip := b[2:]
		ip[0], ip[6], ip[7] = 0x60, 6, 64
		be.PutUint16(ip[4:], uint16(length))
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
		return add(uint64(6+length), ip[8:40])
	}
	be.PutUint16(b, 0x0800)
	ip := b[2:]
	w.id++
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, 6
	be.PutUint16(ip[2:], uint16(ipv4Len+length))
	be.PutUint16(ip[4:], w.id)
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	be.PutUint16(ip[10:], ^fold(add(0, ip[:ipv4Len])))
	return add(uint64(6+length), ip[12:20])
}

func transport(tcp []byte, src, dst uint16, p *packet) {
	be := binary.BigEndian
	be.PutUint16(tcp, src)
	be.PutUint16(tcp[2:], dst)
	be.PutUint32(tcp[4:], p.seq)
	be.PutUint32(tcp[8:], p.ack)
	tcp[12], tcp[13] = tcpLen/4<<4, p.flags
	be.PutUint16(tcp[14:], 502)
	copy(tcp[20:], []byte{1, 1, 8, 10})
	be.PutUint32(tcp[24:], uint32(p.at/1000))
	if p.flags&syn != 0 { // MSS and window scale before the timestamps
		copy(tcp[20:], []byte{2, 4, 5, 0xa8, 1, 3, 3, 7, 1, 1, 4, 2})
	}
}

// add sums 16-bit words (RFC 1071).
func add(sum uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	for i, c := range b {
		sum += uint64(c) << (8 * ((i + 1) % 2))
	}
	return sum
}

func fold(sum uint64) uint16 {
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

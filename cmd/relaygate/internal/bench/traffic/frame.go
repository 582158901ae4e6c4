package traffic

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

const epoch = 1_700_000_000 // Unix time of the first packet

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

var router, host = net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}

// writer writes a pcap file (draft-ietf-opsawg-pcap).
type writer struct {
	out   *bufio.Writer
	file  *pcapgo.Writer
	frame gopacket.SerializeBuffer
	id    uint16
	bytes int64
}

func newWriter(w io.Writer) (*writer, error) {
	const header = 24 // bytes
	out := bufio.NewWriterSize(w, 1<<20)
	file := pcapgo.NewWriter(out)
	if err := file.WriteFileHeader(1<<18, layers.LinkTypeEthernet); err != nil {
		return nil, fmt.Errorf("begin capture: %w", err)
	}
	return &writer{out: out, file: file, frame: gopacket.NewSerializeBuffer(), bytes: header}, nil
}

func (w *writer) packet(s *session, p *packet) error {
	const header = 16 // bytes
	src, dst, from, to := s.client, s.server, router, host
	if !p.toServer {
		src, dst, from, to = dst, src, to, from
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: p.seq, Ack: p.ack,
		FIN: p.flags&fin != 0, SYN: p.flags&syn != 0, RST: p.flags&rst != 0, PSH: p.flags&psh != 0, ACK: p.flags&ack != 0,
		Window: 502, Options: p.options(),
	}
	var network interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	kind := layers.EthernetTypeIPv4
	if src.Addr().Is6() {
		kind = layers.EthernetTypeIPv6
		network = &layers.IPv6{
			Version: 6, NextHeader: layers.IPProtocolTCP, HopLimit: 64, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
		}
	} else {
		w.id++
		network = &layers.IPv4{
			Version: 4, Id: w.id, Flags: layers.IPv4DontFragment, TTL: 64, Protocol: layers.IPProtocolTCP,
			SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
		}
	}
	if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
		return fmt.Errorf("make a packet: %w", err)
	}
	err := gopacket.SerializeLayers(w.frame, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: kind}, network, tcp, gopacket.Payload(p.payload))
	if err != nil {
		return fmt.Errorf("make a packet: %w", err)
	}
	frame := w.frame.Bytes()
	w.bytes += header + int64(len(frame))
	at := time.Unix(epoch+p.at/1e6, p.at%1e6*1e3)
	if err := w.file.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
		return fmt.Errorf("write a packet: %w", err)
	}
	return nil
}

// options are what each segment carries, of one size: timestamps (RFC 7323), and in the
// handshake what only it may.
func (p *packet) options() []layers.TCPOption {
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop}
	if p.flags&syn != 0 {
		return []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xa8}},
			nop,
			{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}},
			nop, nop,
			{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
		}
	}
	now := binary.BigEndian.AppendUint32(make([]byte, 0, 8), uint32(p.at/1000))
	return []layers.TCPOption{
		nop, nop,
		{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: now[:8]},
	}
}

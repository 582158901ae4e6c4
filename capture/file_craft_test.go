package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	little binary.AppendByteOrder = binary.LittleEndian
	big    binary.AppendByteOrder = binary.BigEndian
)

// pcapFile writes frames one second apart.
func pcapFile(order binary.AppendByteOrder, magic uint32, link uint32, frames ...[]byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, 65535)
	b = order.AppendUint32(b, link)
	for i, frame := range frames {
		b = order.AppendUint32(b, uint32(start.Unix())+uint32(i))
		b = order.AppendUint32(b, 678901)
		b = order.AppendUint32(b, uint32(len(frame)))
		b = order.AppendUint32(b, uint32(len(frame)))
		b = append(b, frame...)
	}
	return b
}

func block(order binary.AppendByteOrder, kind uint32, body ...[]byte) []byte {
	all := cat(body...)
	for len(all)%4 != 0 {
		all = append(all, 0)
	}
	size := uint32(len(all) + 12)
	b := order.AppendUint32(nil, kind)
	b = order.AppendUint32(b, size)
	b = append(b, all...)
	return order.AppendUint32(b, size)
}

func sectionBlock(order binary.AppendByteOrder) []byte {
	body := order.AppendUint32(nil, byteOrderMagic)
	body = order.AppendUint16(body, 1)
	body = order.AppendUint16(body, 0)
	return block(order, blockSection, body, bytes.Repeat([]byte{0xff}, 8))
}

func option(order binary.AppendByteOrder, code uint16, value ...byte) []byte {
	b := order.AppendUint16(nil, code)
	b = order.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func interfaceBlock(order binary.AppendByteOrder, link linkType, options ...byte) []byte {
	body := order.AppendUint16(nil, uint16(link))
	return block(order, blockInterface, body, make([]byte, 6), options)
}

func packetBlock(order binary.AppendByteOrder, iface uint32, stamp uint64, frame []byte, options ...byte) []byte {
	b := order.AppendUint32(nil, iface)
	b = order.AppendUint32(b, uint32(stamp>>32))
	b = order.AppendUint32(b, uint32(stamp))
	b = order.AppendUint32(b, uint32(len(frame)))
	b = order.AppendUint32(b, uint32(len(frame)))
	b = append(b, frame...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return block(order, blockEnhanced, b, options)
}

// obsoleteBlock is a packet block of interface 0.
func obsoleteBlock(stamp uint64, frame []byte, options ...byte) []byte {
	b := little.AppendUint32(make([]byte, 4), uint32(stamp>>32))
	b = little.AppendUint32(b, uint32(stamp))
	b = little.AppendUint32(b, uint32(len(frame)))
	b = little.AppendUint32(b, uint32(len(frame)))
	b = append(b, frame...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return block(little, blockPacket, b, options)
}

func zipped(members ...[]byte) []byte {
	var out bytes.Buffer
	for _, m := range members {
		z := gzip.NewWriter(&out)
		_, _ = z.Write(m)
		_ = z.Close()
	}
	return out.Bytes()
}

// asIs reads a file as it is.
func asIs(r io.Reader) io.Reader { return r }

// readAll returns a line for each Event, read size at a time or, with 0, one by one,
// and the error that ended the file.
func readAll(r io.Reader, size int) (got []string, err error) {
	f, err := NewFile("x.pcap", r, newTestDecoder())
	if err != nil {
		return nil, err
	}
	events := make([]Event, max(size, 1))
	for {
		n := 1
		if size == 0 {
			err = f.Next(&events[0])
		} else {
			n, err = f.Batch(events)
		}
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		for _, ev := range events[:n] {
			line := fmt.Sprintf("%s %s", ev.Time.Format("05.999999999"), ev.Segment.Payload)
			if ev.Segment.Link.Interface != 0 || ev.Segment.Sent != 0 {
				line += fmt.Sprintf(" on %d from %d", ev.Segment.Link.Interface, ev.Segment.Sent)
			}
			got = append(got, line)
		}
	}
}

// ways are the sizes that readAll is tried with.
var ways = []int{0, 1, 8}

var (
	frameA = ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("a1 NOOP")))
	frameB = ethernet(etherIPv6, ipv6Packet(protoTCP, tcpSegment("a2 NOOP")))
	frameU = ethernet(etherIPv4, ipv4Packet(17, tcpSegment("UDP")))
)

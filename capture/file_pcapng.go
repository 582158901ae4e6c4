package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/bits"
	"time"
)

// Block types of pcapng files (draft-ietf-opsawg-pcapng §4). Blocks of other
// types are stepped over, as the draft demands.
const (
	blockSection   = 0x0a0d0d0a // reads the same in both byte orders
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

const (
	byteOrderMagic = 0x1a2b3c4d
	// maxBlockExtra bounds what a block holds besides packet data, in bytes.
	maxBlockExtra = 64 << 10
)

// Options of pcapng blocks.
const (
	optionsEnd  = 0
	packetFlags = 2 // epb_flags
)

// pcapng reads pcapng files of several sections and interfaces.
type pcapng struct {
	w     *window
	order binary.ByteOrder
	// interfaces are those of the section, former those of the one before, and numbered
	// how many different ones there are in the file.
	interfaces, former []pcapngInterface
	numbered           uint32
	seed               maphash.Seed
	// The time of the packet before.
	second, nanos int64
	// unread counts the packets of link types that cannot be read, of which foreign is
	// the first.
	unread  uint64
	foreign linkType
}

type pcapngInterface struct {
	link    linkType
	snapLen uint32
	unit    uint64 // timestamps per second
	shift   int64  // seconds to add to them
	name    uint64 // hashed
	number  uint32 // in the file
}

func newPcapng(w *window) *pcapng {
	return &pcapng{w: w, order: binary.LittleEndian, seed: maphash.MakeSeed()}
}

func (p *pcapng) next(r *record) error {
	for {
		kind, body, err := p.block()
		if err != nil {
			if errors.Is(err, io.EOF) && p.unread > 0 {
				err = fmt.Errorf("link type %s is not supported (packets passed over: %d)", p.foreign, p.unread)
			}
			return err
		}
		found := false
		switch kind {
		case blockSection:
			err = p.section(body)
		case blockInterface:
			err = p.addInterface(body)
		case blockEnhanced, blockPacket, blockSimple:
			found, err = p.packet(kind, body, r)
		}
		if err != nil {
			return err
		}
		if size := len(body) + 12; body != nil {
			p.w.skip(size)
		}
		if found {
			return nil
		}
	}
}

// block returns the next block's type and body, which is not consumed yet; or
// nil for the body of a block without meaning here, which is.
func (p *pcapng) block() (kind uint32, body []byte, err error) {
	head, err := p.w.peek(8, "block header")
	if err != nil {
		return 0, nil, err
	}
	if be32(head) == blockSection {
		if err := p.byteOrder(); err != nil {
			return 0, nil, err
		}
		head, _ = p.w.peek(8, "block header")
	}
	kind = p.order.Uint32(head)
	size := p.order.Uint32(head[4:])
	if size < 12 || size%4 != 0 {
		return 0, nil, fmt.Errorf("block of impossible length %d", size)
	}
	switch kind {
	case blockSection, blockInterface, blockPacket, blockSimple, blockEnhanced:
	default:
		return kind, nil, p.w.discard(int(size), "block")
	}
	if size > maxRecord+maxBlockExtra {
		return 0, nil, fmt.Errorf("block of %d bytes is longer than any packet", size)
	}
	data, err := p.w.peek(int(size), "block")
	if err != nil {
		return 0, nil, err
	}
	if trailer := p.order.Uint32(data[size-4:]); trailer != size {
		return 0, nil, fmt.Errorf("block of length %d ends with length %d", size, trailer)
	}
	return kind, data[8 : size-4], nil
}

// byteOrder learns a section's byte order before its length is read.
func (p *pcapng) byteOrder() error {
	head, err := p.w.peek(12, "section header")
	if err != nil {
		return err
	}
	switch uint32(byteOrderMagic) {
	case be32(head[8:]):
		p.order = binary.BigEndian
	case binary.LittleEndian.Uint32(head[8:]):
		p.order = binary.LittleEndian
	default:
		return errForeign
	}
	return nil
}

func (p *pcapng) section(body []byte) error {
	if len(body) < 16 {
		return fmt.Errorf("section header %w", errShort)
	}
	if major := p.order.Uint16(body[4:]); major != 1 {
		return fmt.Errorf("pcapng version %d is not supported", major)
	}
	p.former, p.interfaces = p.interfaces, p.former[:0]
	return nil
}

// options walks a list of options (§3.5). A list that runs out ends it.
func (p *pcapng) options(list []byte, each func(code uint16, value []byte) error) error {
	for len(list) >= 4 {
		code, length := p.order.Uint16(list), int(p.order.Uint16(list[2:]))
		if code == optionsEnd {
			return nil
		}
		padded := (length + 3) &^ 3
		if padded > len(list)-4 {
			return errors.New("option longer than its block")
		}
		if err := each(code, list[4:4+length]); err != nil {
			return err
		}
		list = list[4+padded:]
	}
	return nil
}

// packet reads a block that holds one packet. It reports whether it can be read: of one
// interface among several that cannot, the others are no worse for it, and the end of
// the file says so.
func (p *pcapng) packet(kind uint32, body []byte, r *record) (bool, error) {
	header := 20
	if kind == blockSimple {
		header = 4
	}
	if len(body) < header {
		return false, fmt.Errorf("packet block %w", errShort)
	}
	var number, length, wire uint32
	switch kind {
	case blockEnhanced:
		number = p.order.Uint32(body)
		length, wire = p.order.Uint32(body[12:]), p.order.Uint32(body[16:])
	case blockPacket:
		number = uint32(p.order.Uint16(body))
		length, wire = p.order.Uint32(body[12:]), p.order.Uint32(body[16:])
	case blockSimple:
		wire = p.order.Uint32(body)
		length = min(wire, uint32(len(body)-header))
	}
	if int64(number) >= int64(len(p.interfaces)) {
		return false, fmt.Errorf("packet of interface %d, which is not described", number)
	}
	i := &p.interfaces[number]
	if kind == blockSimple && i.snapLen != 0 {
		length = min(length, i.snapLen)
	}
	if !i.link.supported() {
		if p.unread == 0 {
			p.foreign = i.link
		}
		p.unread++
		return false, nil
	}
	if int64(length) > int64(len(body)-header) {
		return false, errors.New("packet longer than its block")
	}
	// One by one: of a literal the compiler makes a copy, which costs as much as all
	// the rest.
	r.second, r.nanos, r.link, r.direction = p.second, p.nanos, i.link, SenderUnknown
	r.data, r.wireLen = body[header:header+int(length)], int(wire)
	r.iface = i.number
	if kind == blockSimple {
		return true, nil // it has no time: that of the packet before must do
	}
	stamp := uint64(p.order.Uint32(body[4:]))<<32 | uint64(p.order.Uint32(body[8:]))
	r.second, r.nanos = i.time(stamp)
	p.second, p.nanos = r.second, r.nanos
	return true, p.direction(body[header+(int(length)+3)&^3:], r)
}

// plain is pcap.plain: the most usual is an enhanced packet block without options.
func (p *pcapng) plain(ahead []byte, r *record) (size int) {
	const header, trailer = 28, 4
	if len(ahead) < header || p.order != binary.ByteOrder(binary.LittleEndian) {
		return 0
	}
	head := (*[header]byte)(ahead)
	number, length := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[20:])
	if binary.LittleEndian.Uint32(head[0:]) != blockEnhanced || length > maxRecord || int64(number) >= int64(len(p.interfaces)) {
		return 0
	}
	size = header + (int(length)+3)&^3 + trailer
	i := &p.interfaces[number]
	if size > len(ahead) || int(binary.LittleEndian.Uint32(head[4:])) != size ||
		int(binary.LittleEndian.Uint32(ahead[size-trailer:])) != size || i.link != linkEthernet {
		return 0
	}
	r.data, r.iface = ahead[header:header+int(length)], i.number
	r.second, r.nanos = i.time(uint64(binary.LittleEndian.Uint32(head[12:]))<<32 | uint64(binary.LittleEndian.Uint32(head[16:])))
	p.second, p.nanos = r.second, r.nanos
	return size
}

// direction reads the direction of an enhanced packet block (§4.3.1), or of an
// obsolete one, which tells it the same way (Appendix A).
func (p *pcapng) direction(list []byte, r *record) error {
	return p.options(list, func(code uint16, value []byte) error {
		if code != packetFlags || len(value) != 4 {
			return nil
		}
		const inbound, outbound = 1, 2
		switch p.order.Uint32(value) & 3 {
		case inbound:
			r.direction = SenderOutside
		case outbound:
			r.direction = SenderHost
		}
		return nil
	})
}

// time returns the Unix time in seconds and nanoseconds.
func (i *pcapngInterface) time(stamp uint64) (second, nanos int64) {
	const micros = 1e6 // what nearly all files have; to divide by a constant is quick
	if i.unit == micros {
		return int64(stamp/micros) + i.shift, int64(stamp%micros) * 1000
	}
	hi, lo := bits.Mul64(stamp%i.unit, uint64(time.Second))
	fraction, _ := bits.Div64(hi, lo, i.unit) // the remainder is below the unit
	return int64(stamp/i.unit) + i.shift, int64(fraction)
}

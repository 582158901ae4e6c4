package capture

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers of pcap files, as a writer stores them in its byte order
// (draft-ietf-opsawg-pcap).
const (
	magicMicro    = 0xa1b2c3d4
	magicNano     = 0xa1b23c4d
	magicModified = 0xa1b2cd34 // Kuznetzov's, with longer record headers
)

const (
	pcapHeaderLen   = 24
	pcapRecordLen   = 16
	pcapModifiedLen = 24
)

// pcap reads classic pcap files.
type pcap struct {
	w         *window
	bigEndian bool
	unit      int64 // of the fraction in record headers, in nanoseconds
	header    int   // length of a record header in bytes
	link      linkType
	usual     bool // see plain
}

func newPcap(w *window) (*pcap, error) {
	magic, err := w.peek(4, "file header")
	if err != nil {
		return nil, err
	}
	p := &pcap{w: w, header: pcapRecordLen}
	var order binary.ByteOrder = binary.LittleEndian
	switch be32(magic) {
	case magicMicro, magicNano, magicModified:
		order, p.bigEndian = binary.BigEndian, true
	}
	switch order.Uint32(magic) {
	case magicMicro:
		p.unit = 1000
	case magicNano:
		p.unit = 1
	case magicModified:
		p.unit, p.header = 1000, pcapModifiedLen
	default:
		return nil, errForeign
	}
	head, err := w.peek(pcapHeaderLen, "file header")
	if err != nil {
		return nil, err
	}
	if major := order.Uint16(head[4:]); major != 2 {
		return nil, fmt.Errorf("pcap version %d is not supported", major)
	}
	// The upper half of the field tells of a frame check sequence, which the
	// length of the IP packet cuts off.
	p.link = linkType(order.Uint32(head[20:]))
	if !p.link.supported() {
		return nil, fmt.Errorf("link type %s is not supported", p.link)
	}
	p.usual = p.link == linkEthernet && !p.bigEndian && p.header == pcapRecordLen
	w.skip(pcapHeaderLen)
	return p, nil
}

func (p *pcap) next(r *record) error {
	head := p.w.ahead()
	if len(head) < p.header {
		var err error
		if head, err = p.w.peek(p.header, "record header"); err != nil {
			return err
		}
	}
	length := p.uint32(head[8:])
	if length > maxRecord {
		return fmt.Errorf("record of %d bytes is longer than any packet", length)
	}
	size := p.header + int(length)
	if len(head) < size {
		var err error
		if head, err = p.w.peek(size, "record"); err != nil {
			return err
		}
	}
	p.w.skip(size)
	r.second, r.nanos = int64(p.uint32(head)), int64(p.uint32(head[4:]))*p.unit
	r.link, r.data, r.wireLen = p.link, head[p.header:size], int(p.uint32(head[12:]))
	return nil
}

func (p *pcap) uint32(b []byte) uint32 {
	if p.bigEndian {
		return binary.BigEndian.Uint32(b)
	}
	return binary.LittleEndian.Uint32(b)
}

// plain reads the record at the beginning of ahead if it lies there whole and is of
// the most usual kind: Ethernet, in little-endian order. It returns its size, or 0:
// next may know better.
func (p *pcap) plain(ahead []byte, r *record) (size int) {
	if len(ahead) < pcapRecordLen || !p.usual {
		return 0
	}
	head := (*[pcapRecordLen]byte)(ahead)
	length := binary.LittleEndian.Uint32(head[8:])
	size = pcapRecordLen + int(length)
	if length > maxRecord || size > len(ahead) {
		return 0
	}
	r.data = ahead[pcapRecordLen:size:size]
	r.second, r.nanos = int64(binary.LittleEndian.Uint32(head[0:])), int64(binary.LittleEndian.Uint32(head[4:]))*p.unit
	return size
}

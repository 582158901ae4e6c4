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
	link      LinkType
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
	p.link = LinkType(order.Uint32(head[20:]))
	if !p.link.supported() {
		return nil, fmt.Errorf("link type %s is not supported", p.link)
	}
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

// skim is the way of almost every record: it passes over plain ones that have
// nothing to say and fills in events of those that have, as long as both lie in
// memory. It returns how many records it consumed, of which last gets the time of
// the last, and how many events there are; what stopped it next has to read.
// before counts the records of the file so far.
func (p *pcap) skim(d *Decoder, events []Event, before uint64, last *record) (records uint64, n int) {
	if p.link != LinkEthernet || p.bigEndian || p.header != pcapRecordLen || d.waiting() {
		return 0, 0
	}
	ahead := p.w.ahead()
	at := 0 // of the next record
	r := record{link: p.link}
	for found := silent; n < len(events) && found != beginning && at+pcapRecordLen <= len(ahead); {
		head := (*[pcapRecordLen]byte)(ahead[at:])
		length := binary.LittleEndian.Uint32(head[8:])
		start := at + pcapRecordLen
		end := start + int(length)
		if length > maxRecord || end > len(ahead) {
			break
		}
		r.data = ahead[start:end:end]
		r.second, r.nanos = int64(binary.LittleEndian.Uint32(head[0:])), int64(binary.LittleEndian.Uint32(head[4:]))*p.unit
		if found = d.glance(&r, &events[n]); found == unclear {
			break
		}
		at = end
		records++
		last.second, last.nanos = r.second, r.nanos
		if found != silent {
			events[n].Index = before + records
			n++
		}
	}
	p.w.skip(at)
	return records, n
}

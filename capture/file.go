package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// FileError says where reading a capture file ended before its end. Everything
// before Offset was handed on.
type FileError struct {
	Name string
	// Offset is where the record begins that could not be read, in bytes; of
	// the decompressed file if it is compressed.
	Offset int64
	Err    error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s: offset %d: %v", e.Name, e.Offset, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

var (
	errForeign = errors.New("not a pcap or pcapng file")
	errEmpty   = errors.New("the file is empty")
)

// packers are programs whose files are taken for captures, by their first bytes: xz(1),
// zstd(1), lz4(1) and bzip2(1).
var packers = map[string]string{
	"\xfd7zX": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x04\x22\x4d\x18": "lz4", "BZh": "bzip2",
}

// others are formats of captures that programs convert, by their first bytes.
var others = map[string]string{"snoo": "snoop", "GMBU": "Network Monitor", "XCP\x00": "NetXRay", "TRSN": "Sniffer"}

// knownBy is the name of what begins with magic, "" if none of those is.
func knownBy(magic []byte, names map[string]string) string {
	for begin, name := range names {
		if strings.HasPrefix(string(magic), begin) {
			return name
		}
	}
	return ""
}

// record is one packet of a file. Its bytes are valid until the next record.
type record struct {
	second    int64 // Unix time
	nanos     int64
	link      linkType
	data      []byte
	wireLen   int
	iface     uint32
	direction Sender
}

// format reads the records of one file format. next sets what differs from the
// record before, and returns io.EOF behind the last one.
type format interface {
	next(*record) error
}

// File reads a capture file: pcap or pcapng, possibly compressed
// with gzip.
type File struct {
	name    string
	decoder *Decoder
	format  format
	window  *window
	raw     *countingReader
	total   int64
	closer  io.Closer
	record  record
	packets uint64
	err     error
}

// OpenFile opens the capture file at path, and reads it through what wrap makes of
// it. Errors of the file's contents are *FileError.
func OpenFile(path string, wrap func(io.Reader) io.Reader, d *Decoder) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open capture: %w", err)
	}
	file, err := NewFile(path, wrap(f), d)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	file.closer = f
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		file.total = info.Size()
	}
	return file, nil
}

// NewFile reads a capture from r. The name is for errors.
func NewFile(name string, r io.Reader, d *Decoder) (*File, error) {
	f := &File{name: name, decoder: d, raw: &countingReader{r: r}}
	head := bufio.NewReader(f.raw)
	var data io.Reader = head
	if isGzip(head) {
		z, err := newUnzipper(head)
		if err != nil {
			return nil, &FileError{Name: name, Err: err}
		}
		data = z
	}
	f.window = newWindow(data)
	magic, err := f.window.peek(4, "file header")
	packer, other := knownBy(magic, packers), knownBy(magic, others)
	switch {
	case errors.Is(err, io.EOF):
		return nil, f.at(errEmpty)
	case err != nil && (!errors.Is(err, errShort) || errors.Is(f.window.err, io.ErrUnexpectedEOF)): // cut in gzip
		return nil, f.at(err)
	case err != nil:
		return nil, f.at(errForeign)
	case packer != "":
		return nil, f.at(fmt.Errorf("compressed by %s: unpack it first, or pipe it in (%s -dc FILE | relaygate replay -)", packer, packer))
	case other != "":
		return nil, f.at(fmt.Errorf("a capture of %s: convert it first (editcap FILE FILE.pcapng)", other))
	}
	if be32(magic) == blockSection {
		f.format = newPcapng(f.window)
	} else if f.format, err = newPcap(f.window); err != nil {
		return nil, f.at(err)
	}
	return f, nil
}

// Next hands on the next Event. After a *FileError, as after io.EOF, it keeps
// returning the same error.
func (f *File) Next(ev *Event) error {
	if f.more(ev) {
		return nil
	}
	f.decoder.done.fresh = 0
	for f.err == nil {
		if found, _ := f.one(ev); found {
			return nil
		}
	}
	return f.err
}

// more hands on what the record before still has to say.
func (f *File) more(ev *Event) bool {
	if !f.decoder.more(ev) {
		return false
	}
	f.decoded(ev)
	return true
}

// one reads a record. It reports whether it has something to say, and whether that
// must be used before the next record is read.
func (f *File) one(ev *Event) (found, last bool) {
	r := &f.record
	switch err := f.format.next(r); {
	case errors.Is(err, errPinned):
		return false, true
	case errors.Is(err, io.EOF):
		f.err = err
		return false, true
	case err != nil:
		f.err = f.at(err)
		return false, true
	}
	f.packets++
	switch s := f.decoder.glance(r, ev); s {
	case silent:
		return false, false
	case segment, beginning:
		return true, s == beginning
	case unclear:
	}
	f.decoder.done.fresh = math.MaxUint64 // it was not looked up
	p := packet{time: time.Unix(r.second, r.nanos).UTC(), sent: r.direction, link: Link{Interface: r.iface}}
	if !f.decoder.frame(&p, r.link, r.data, r.wireLen, ev) {
		return false, false
	}
	f.decoded(ev)
	return true, true
}

// decoded fills in what a file knows of an Event besides its frame.
func (f *File) decoded(ev *Event) {
	if ev.Kind == Packet {
		ev.Segment.Hash = f.decoder.hasher.Pair(ev.Segment.Src, ev.Segment.Dst)
	}
}

// at puts an error where the current record begins.
func (f *File) at(err error) error {
	return &FileError{Name: f.name, Offset: f.window.offset, Err: err}
}

// Packets counts all packets of the file so far, also those of other ports.
func (f *File) Packets() uint64 { return f.packets }

// Time is that of the packet read last, also if it said nothing.
func (f *File) Time() time.Time { return time.Unix(f.record.second, f.record.nanos).UTC() }

// Progress returns how many bytes of the file were read, as they are on disk,
// and its size, 0 where that is unknown. It may be called at any time from any
// goroutine.
func (f *File) Progress() (read, total int64) { return f.raw.n.Load(), f.total }

// Close closes the file that OpenFile opened.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	if err := f.closer.Close(); err != nil {
		return fmt.Errorf("close capture: %w", err)
	}
	return nil
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

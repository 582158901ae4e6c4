package capture

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
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

// record is one packet of a file. Its bytes are valid until the next record.
type record struct {
	second    int64 // Unix time
	nanos     int64
	link      LinkType
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

// File is the Source of a capture file: pcap or pcapng, possibly compressed
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

// OpenFile opens the capture file at path; "-" is standard input. Errors of the
// file's contents are *FileError.
func OpenFile(path string, d *Decoder) (*File, error) {
	if path == "-" {
		return NewFile("standard input", os.Stdin, d)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open capture: %w", err)
	}
	file, err := NewFile(path, f, d)
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
	if magic, err := head.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b { // RFC 1952 §2.3.1
		z, err := gzip.NewReader(head)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("gzip header %w", errShort)
		}
		if err != nil {
			return nil, &FileError{Name: name, Err: err}
		}
		data = z
	}
	f.window = newWindow(data)
	magic, err := f.window.peek(4, "file header")
	switch {
	case errors.Is(err, io.EOF):
		return nil, f.at(errEmpty)
	case err != nil && !errors.Is(err, errShort):
		return nil, f.at(err)
	case err != nil:
		return nil, f.at(errForeign)
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
	for f.err == nil {
		if found, _ := f.one(ev); found {
			return nil
		}
	}
	return f.err
}

// Batch hands on the next Events, at least one and as many as can be had without
// moving the memory that their payloads lie in. What is fed of a connection that
// came to be done meanwhile is no news to the table of flows. Its errors are
// those of Next.
func (f *File) Batch(events []Event) (n int, err error) {
	if f.more(&events[0]) {
		return 1, nil
	}
	for f.err == nil {
		if n := f.skim(events); n > 0 {
			return n, nil
		}
		if n := f.several(events); n > 0 {
			return n, nil
		}
	}
	return 0, f.err
}

// skim is the way of almost every record: it passes over plain ones that have
// nothing to say and fills in events of those that have, as long as both lie in
// memory. What stopped it one has to read. It is glance for many records, in one
// function: that is a twentieth of the CPU time where most are passed over.
func (f *File) skim(events []Event) (n int) {
	d, rest := f.decoder, f.window.ahead()
	before := len(rest)
	if d.waiting() {
		return 0
	}
	classic, isClassic := f.format.(*pcap) // the compiler then knows whom it calls
	ng, _ := f.format.(*pcapng)
	r := record{second: f.record.second, nanos: f.record.nanos}
	var g glimpse
	for n < len(events) {
		var size int
		if isClassic {
			size = classic.plain(rest, &r)
		} else {
			size = ng.plain(rest, &r)
		}
		if size == 0 {
			break
		}
		found := d.look(r.data, &g)
		if found == unclear {
			break
		}
		rest = rest[size:]
		f.packets++
		if found == silent {
			continue
		}
		passage := d.done.passage(g.hash, g.flags, r.second)
		if passage == passed {
			continue
		}
		d.show(&r, &g, &events[n])
		events[n].Index = f.packets
		if n++; passage == shownStill {
			break // as of a beginning
		}
	}
	f.record.second, f.record.nanos = r.second, r.nanos
	f.window.skip(before - len(rest))
	return n
}

// several reads records one by one: the first wherever it lies and, if it says
// something, those behind it as far as they lie in memory.
func (f *File) several(events []Event) (n int) {
	for last := false; n < len(events) && !last && f.err == nil; {
		var found bool
		if found, last = f.one(&events[n]); found {
			f.window.pinned = true
			n++
		} else if n == 0 {
			break // there is more in memory now, and quicker ways to read it
		}
	}
	f.window.pinned = false
	return n
}

// more hands on what the record before still has to say.
func (f *File) more(ev *Event) bool {
	if !f.decoder.More(ev) {
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
		ev.Index = f.packets
		return true, s == beginning
	case unclear:
	}
	p := packet{time: time.Unix(r.second, r.nanos).UTC(), sent: r.direction, link: Link{Interface: r.iface}}
	if !f.decoder.frame(&p, r.link, r.data, r.wireLen, ev) {
		return false, false
	}
	f.decoded(ev)
	return true, true
}

// decoded fills in what a file knows of an Event besides its frame.
func (f *File) decoded(ev *Event) {
	ev.Index = f.packets
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

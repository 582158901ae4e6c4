package line

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Line is one complete line.
type Line struct {
	// Text is the line without its line end. It is valid until the next call
	// of Next or Wipe, and can hold a password.
	Text []byte
	// BareLF is true if the line ended with LF alone instead of CRLF.
	BareLF bool
	// Tab is true if the line holds a TAB.
	Tab bool
	// Eight is true if the line holds an octet above 0x7f.
	Eight bool
}

// State is the outcome of Reader.Next.
type State uint8

const (
	// Partial: all octets were taken, and the line is not complete.
	Partial State = iota
	// Complete: there is a line.
	Complete
	// Control: an octet that no line may hold. The reader is of no further use.
	Control
	// TooLong: the line is longer than Max. The reader is of no further use.
	TooLong
)

// Reader joins the pieces of one direction into lines.
type Reader struct {
	// Max bounds a line with its line end, in octets.
	Max int
	// Strict forbids every control character but TAB, a CR that no LF follows,
	// and 0xff (which a telnet-minded server could take for IAC, RFC 854).
	// Without it only NUL is forbidden.
	Strict bool

	buf  []byte // what came of a line that is not complete
	line Line   // the flags of that line so far
}

// Empty reports whether the reader stands at the start of a line.
func (r *Reader) Empty() bool { return len(r.buf) == 0 }

// Next takes octets from b up to the end of a line and returns what it left.
// A forbidden octet is reported when it is seen, not when its line ends.
func (r *Reader) Next(b []byte) (l Line, rest []byte, s State) {
	if len(r.buf) == 0 { // almost every line: whole, printable, with CRLF
		if n := printable(b); n+2 <= min(len(b), r.Max) && b[n] == '\r' && b[n+1] == '\n' {
			return Line{Text: b[:n]}, b[n+2:], Complete
		}
	}
	return r.next(b)
}

// next is Next for any line.
func (r *Reader) next(b []byte) (l Line, rest []byte, s State) {
	piece, rest := b, []byte(nil)
	end := bytes.IndexByte(b, '\n')
	if end >= 0 {
		piece, rest = b[:end+1], b[end+1:]
	}
	if len(r.buf)+len(piece) > r.Max {
		return Line{}, nil, TooLong
	}
	if !r.scan(piece) {
		return Line{}, nil, Control
	}
	if end < 0 {
		r.join(piece)
		return Line{}, nil, Partial
	}
	text := piece
	if len(r.buf) > 0 {
		r.join(piece)
		text = r.buf
	}
	l = r.line
	r.line = Line{}
	text = text[:len(text)-1]
	l.BareLF = true
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text, l.BareLF = text[:n-1], false
	}
	l.Text = text
	return l, rest, Complete
}

// join appends the piece, and leaves no copy behind where the buffer grows.
func (r *Reader) join(piece []byte) {
	if need := len(r.buf) + len(piece); need > cap(r.buf) {
		grown := make([]byte, len(r.buf), max(need, 2*cap(r.buf), 128))
		copy(grown, r.buf)
		clear(r.buf)
		r.buf = grown
	}
	r.buf = append(r.buf, piece...)
}

// scan notes what the piece holds and reports whether all of it is allowed.
func (r *Reader) scan(piece []byte) bool {
	cr := len(r.buf) > 0 && r.buf[len(r.buf)-1] == '\r'
	for _, c := range piece {
		if cr && c != '\n' && r.Strict {
			return false
		}
		cr = c == '\r'
		switch {
		case c >= 0x80:
			r.line.Eight = true
			if c == 0xff && r.Strict {
				return false
			}
		case c == '\t':
			r.line.Tab = true
		case c == 0:
			return false
		case c == '\r', c == '\n':
		case (c < ' ' || c == 0x7f) && r.Strict:
			return false
		}
	}
	return true
}

// printable counts octets at the start of b that every line may hold and no flag
// notes: 0x20 to 0x7e.
func printable(b []byte) int {
	const each, top = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; n+8 <= len(b); n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		// Up to the first octet that is not printable, none carries into the
		// next one: adding 1 sets the top bit of 0x7f, adding 0x60 that of 0x20
		// and above.
		if other := (w | (w + each) | ^(w + 0x60*each)) & top; other != 0 {
			return n + bits.TrailingZeros64(other)/8
		}
	}
	for n < len(b) && ' ' <= b[n] && b[n] <= '~' {
		n++
	}
	return n
}

// Begun is what came of a line that is not complete, valid until Next or Wipe.
func (r *Reader) Begun() []byte { return r.buf }

// Wipe overwrites the joined text of the line that Next returned, and stands
// at the start of the next line. Call it as soon as the line was understood.
func (r *Reader) Wipe() {
	clear(r.buf[:cap(r.buf)])
	r.buf = r.buf[:0]
}

// Drop wipes and frees the buffer: nothing further will be read.
func (r *Reader) Drop() {
	r.Wipe()
	r.buf = nil
	r.line = Line{}
}

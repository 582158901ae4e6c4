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
	Text  []byte
	marks marks
}

// marks is a set of what there can be to note of a line.
type marks uint8

const (
	bareLF marks = 1 << iota
	tab
	eight
)

// BareLF: the line ended with LF alone instead of CRLF. Tab: it holds a TAB, Eight: an
// octet above 0x7f; only a strict reader notes these.
func (l *Line) BareLF() bool { return l.marks&bareLF != 0 }
func (l *Line) Tab() bool    { return l.marks&tab != 0 }
func (l *Line) Eight() bool  { return l.marks&eight != 0 }

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
	// Strict is for a client's lines. It forbids every control character but TAB, a
	// CR that no LF follows, and 0xff (which a telnet-minded server could take for
	// IAC, RFC 854). Without it only NUL is forbidden.
	Strict bool

	buf   []byte // what came of a line that is not complete
	marks marks  // what was noted of it
}

// Doubt is why a connection is not believed whose reader is of no further use, ""
// while it is.
func (r *Reader) Doubt(s State) string {
	switch {
	case s == Control && r.Strict:
		return ReasonControl
	case s == Control:
		return reasonNUL
	case s == TooLong && r.Strict:
		return reasonLongClient
	case s == TooLong:
		return reasonLongServer
	}
	return ""
}

// Empty reports whether the reader stands at the start of a line.
func (r *Reader) Empty() bool { return len(r.buf) == 0 }

// Next takes octets from b up to the end of a line and returns what it left.
// A forbidden octet is reported when it is seen, not when its line ends.
func (r *Reader) Next(b []byte) (l Line, rest []byte, s State) {
	if len(r.buf) == 0 { // almost every line: whole, with CRLF, and nothing to note
		var n int
		if r.Strict || len(b) <= short {
			n = Printable(b)
		} else {
			n = long(b)
		}
		if end := n + len("\r\n"); n >= 0 && end <= len(b) && end <= r.Max && string(b[n:end]) == "\r\n" {
			return Line{Text: b[:n]}, b[end:], Complete
		}
	}
	return r.next(b)
}

// short is the length up to which the vector instructions of long do not pay.
const short = 40

// long is where the first line of b has its CRLF, if it has one and no NUL before
// it; else it is negative, or some other place.
func long(b []byte) int {
	end := bytes.IndexByte(b, '\n')
	if end > 0 && bytes.IndexByte(b[:end], 0) >= 0 {
		return -1
	}
	return end - 1
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
	if bytes.IndexByte(piece, 0) >= 0 || r.Strict && !r.scan(piece) {
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
	text = text[:len(text)-1]
	noted := r.marks
	r.marks = 0
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	} else {
		noted |= bareLF
	}
	return Line{text, noted}, rest, Complete
}

// Octets takes n octets from b, whatever they are, and returns them once all have come,
// and what it left. There is room for Max.
func (r *Reader) Octets(b []byte, n int) (text, rest []byte, s State) {
	missing := n - len(r.buf)
	if len(b) < missing {
		r.join(b)
		return nil, nil, Partial
	}
	text, rest = b[:missing], b[missing:]
	if len(r.buf) > 0 {
		r.join(text)
		text = r.buf
	}
	return text, rest, Complete
}

// join appends the piece, and leaves no copy behind where the buffer grows.
func (r *Reader) join(piece []byte) {
	if need := len(r.buf) + len(piece); need > cap(r.buf) {
		grown := make([]byte, len(r.buf), min(max(need, 2*cap(r.buf), 128), r.Max))
		copy(grown, r.buf)
		clear(r.buf)
		r.buf = grown
	}
	r.buf = append(r.buf, piece...)
}

// scan notes what the piece holds and reports whether a strict reader allows all
// of it.
func (r *Reader) scan(piece []byte) bool {
	cr := len(r.buf) > 0 && r.buf[len(r.buf)-1] == '\r'
	for _, c := range piece {
		if cr && c != '\n' {
			return false
		}
		cr = c == '\r'
		switch {
		case c == 0xff:
			return false
		case c >= 0x80:
			r.marks |= eight
		case c == '\t':
			r.marks |= tab
		case c == '\r', c == '\n':
		case c < ' ', c == 0x7f:
			return false
		}
	}
	return true
}

// Printable counts octets at the start of b that every line may hold and no mark
// notes: 0x20 to 0x7e.
func Printable(b []byte) int {
	n := 0
	for ; n <= len(b)-8; n += 8 {
		if other := unprintable(binary.LittleEndian.Uint64(b[n:])); other != 0 {
			return n + bits.TrailingZeros64(other)/8
		}
	}
	if last := len(b) - 8; last >= 0 { // the last octets again, but those counted: zeros come in behind
		w := binary.LittleEndian.Uint64(b[last:]) >> (8 * uint(n-last))
		return n + bits.TrailingZeros64(unprintable(w))/8
	}
	for n < len(b) && ' ' <= b[n] && b[n] <= '~' {
		n++
	}
	return n
}

// unprintable has the top bit of the first octet in w set that is not 0x20 to 0x7e,
// and none below. Up to it, none carries into the next one nor borrows from it:
// adding 1 sets the top bit of 0x7f, taking away 0x20 that of what is below 0x20.
func unprintable(w uint64) uint64 {
	const each, top = 0x0101010101010101, 0x8080808080808080
	return (w | (w + each) | (w - 0x20*each)) & top
}

// Begun is what came of a line that is not complete, valid until Next or Wipe.
func (r *Reader) Begun() []byte { return r.buf }

// Wipe overwrites the joined text of the line that Next returned, or of what Octets did,
// and stands at the start of the next line. Call it as soon as that was understood.
func (r *Reader) Wipe() {
	clear(r.buf) // behind its end it always is
	r.buf = r.buf[:0]
}

// Drop wipes and frees the buffer: nothing further will be read.
func (r *Reader) Drop() {
	r.Wipe()
	r.buf = nil
	r.marks = 0
}

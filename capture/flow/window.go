package flow

import "bytes"

// span is a range of bytes that are there, as offsets from a window's base.
type span struct{ from, to int }

// window holds bytes of one direction that wait: at sequence numbers from a
// base that its owner keeps (the next byte to release).
type window struct {
	buf   []byte // buf[head+i] is the byte at base+i
	head  int    // bytes of buf released since the last compact, and of those kept
	kept  int    // the last ones of them that can still be compared
	used  int    // buf[used:] was never written
	spans []span // sorted, not touching one another

	dropped, dirty bool // see pool
}

// overlapping returns the index range of the spans that overlap or touch
// [from, to).
func (w *window) overlapping(from, to int) (int, int) {
	i := 0
	for i < len(w.spans) && w.spans[i].to < from {
		i++
	}
	j := i
	for j < len(w.spans) && w.spans[j].from <= to {
		j++
	}
	return i, j
}

// agrees reports whether p at off equals what the window holds there already.
func (w *window) agrees(off int, p []byte) bool {
	if off >= w.end() {
		return true
	}
	i, j := w.overlapping(off, off+len(p))
	for _, s := range w.spans[i:j] {
		from, to := max(s.from, off), min(s.to, off+len(p))
		if from < to && !bytes.Equal(w.buf[w.head+from:w.head+to], p[from-off:to-off]) {
			return false
		}
	}
	return true
}

// put stores p, which agrees, at off. The buffer must be large enough.
func (w *window) put(off int, p []byte) {
	n := span{off, off + len(p)}
	copy(w.buf[w.head+n.from:], p)
	w.used = max(w.used, w.head+n.to)
	if len(w.spans) == 0 || off > w.end() {
		w.spans = append(w.spans, n)
		return
	}
	i, j := w.overlapping(n.from, n.to)
	if i == j {
		w.spans = append(w.spans, span{})
		copy(w.spans[i+1:], w.spans[i:])
		w.spans[i] = n
		return
	}
	n.from = min(n.from, w.spans[i].from)
	n.to = max(n.to, w.spans[j-1].to)
	w.spans[i] = n
	w.spans = append(w.spans[:i+1], w.spans[j:]...)
}

// ready returns the bytes from the base up to the first hole.
func (w *window) ready() []byte {
	if w == nil || len(w.spans) == 0 || w.spans[0].from != 0 {
		return nil
	}
	return w.buf[w.head : w.head+w.spans[0].to]
}

// end is the offset behind the last byte held.
func (w *window) end() int {
	if w == nil || len(w.spans) == 0 {
		return 0
	}
	return w.spans[len(w.spans)-1].to
}

// advance moves the base n bytes on. What ready returned stays valid until
// compact.
func (w *window) advance(n int) {
	w.head = min(w.head+n, len(w.buf))
	kept := w.spans[:0]
	for _, s := range w.spans {
		if s.to > n {
			kept = append(kept, span{max(s.from-n, 0), s.to - n})
		}
	}
	w.spans = kept
}

// advanceKeeping is advance, and keeps what is released for took.
func (w *window) advanceKeeping(n int) {
	if w.kept += n; w.head+n > len(w.buf) { // a FIN, which is no byte
		w.kept = 0
	}
	if w.end() > n {
		w.advance(n)
		return
	}
	w.head, w.spans = min(w.head+n, len(w.buf)), w.spans[:0]
}

// took reports whether p at off, which is negative and kept, equals what the window
// released.
func (w *window) took(off int, p []byte) bool {
	end := min(len(p), -off)
	return bytes.Equal(w.buf[w.head+off:w.head+off+end], p[:end])
}

// keptBytes is how much a window keeps at least of what it released.
const keptBytes = 4 << 10

// compact removes released bytes, which may be secrets, from the buffer, but for the
// last of those that are kept.
func (w *window) compact() {
	keep := min(keptBytes, w.kept)
	n := 0
	if from := w.head - keep; from < w.used {
		n = copy(w.buf, w.buf[from:w.used])
	}
	clear(w.buf[n:w.used])
	w.head, w.kept, w.used = keep, keep, n
}

package flow

// bufferSizes are the sizes of the buffers of a window, in bytes. The first is
// not charged to Limits.Buffered.
var bufferSizes = [...]int{512, 2 << 10, 8 << 10, 32 << 10, 128 << 10}

// maxWindow is the most that a window can hold, in bytes.
const maxWindow = 128 << 10

// pool hands out windows and their buffers and takes them back. What was
// released or dropped stays readable until recycle, as chunks alias it.
type pool struct {
	limit   int // for held, in bytes
	held    int // bytes of charged buffers, in use or free
	free    [len(bufferSizes)][][]byte
	windows []*window // each with a buffer of the smallest size
	dirty   []*window
	retired []retired // buffers that became too small
}

// retired is a buffer that chunks may still alias, of which the first used bytes
// were written.
type retired struct {
	buf  []byte
	used int
}

// window returns an empty one with a buffer of the smallest size.
func (p *pool) window() *window {
	if n := len(p.windows); n > 0 {
		w := p.windows[n-1]
		p.windows = p.windows[:n-1]
		return w
	}
	return &window{buf: p.buffer(0)}
}

// reserve makes room for n bytes in w, and reports whether there is any. What w keeps of
// released bytes gives way to that.
func (p *pool) reserve(w *window, n int) bool {
	return w.head+n <= len(w.buf) || p.move(w, 0, w.head+n) || w.head > 0 && p.move(w, w.head, n)
}

// move gives w another buffer of n bytes, which begins with what is at from, up to the
// head, in the present one.
func (p *pool) move(w *window, from, n int) bool {
	buf := p.room(n)
	if buf == nil {
		return false
	}
	copied := copy(buf, w.buf[min(from, w.used):w.used])
	p.retire(w.buf, w.used)
	w.buf, w.used, w.head = buf, copied, w.head-from
	w.kept = min(w.kept, w.head)
	return true
}

// room returns a zeroed buffer for n bytes, nil if there is none left.
func (p *pool) room(n int) []byte {
	for class, size := range bufferSizes {
		if n <= size {
			return p.buffer(class)
		}
	}
	return nil
}

// retire takes a buffer back, of which the first used bytes were written, once chunks do
// not alias it any more.
func (p *pool) retire(buf []byte, used int) {
	if buf != nil {
		p.retired = append(p.retired, retired{buf, used})
	}
}

// buffer returns a zeroed buffer of a class, nil if there is none left.
func (p *pool) buffer(class int) []byte {
	if n := len(p.free[class]); n > 0 {
		buf := p.free[class][n-1]
		p.free[class] = p.free[class][:n-1]
		return buf
	}
	size := bufferSizes[class]
	if class > 0 {
		if p.held+size > p.limit {
			p.trim()
		}
		if p.held+size > p.limit {
			return nil
		}
		p.held += size
	}
	return make([]byte, size)
}

// trim gives the free buffers back to the Go heap.
func (p *pool) trim() {
	for class := range p.free {
		if class > 0 {
			p.held -= len(p.free[class]) * bufferSizes[class]
		}
		p.free[class] = nil
	}
}

// put takes a buffer back of which the first used bytes were written.
func (p *pool) put(buf []byte, used int) {
	clear(buf[:used])
	for class, size := range bufferSizes {
		if size == len(buf) {
			p.free[class] = append(p.free[class], buf)
		}
	}
}

// released notes that w was advanced; drop that it is not needed any more.
func (p *pool) released(w *window) {
	if !w.dirty {
		w.dirty = true
		p.dirty = append(p.dirty, w)
	}
}

func (p *pool) drop(w *window) {
	if w != nil {
		w.dropped = true
		p.released(w)
	}
}

// recycle cleans up after the chunks of the last Feed were read.
func (p *pool) recycle() {
	for i, r := range p.retired {
		p.put(r.buf, r.used)
		p.retired[i] = retired{}
	}
	p.retired = p.retired[:0]
	for _, w := range p.dirty {
		w.dirty = false
		if !w.dropped {
			w.compact()
			continue
		}
		w.dropped = false
		if len(w.buf) == bufferSizes[0] {
			clear(w.buf[:w.used])
		} else {
			p.put(w.buf, w.used)
			w.buf = p.buffer(0)
		}
		w.head, w.kept, w.used, w.spans = 0, 0, 0, w.spans[:0]
		p.windows = append(p.windows, w)
	}
	p.dirty = p.dirty[:0]
}

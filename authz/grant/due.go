package grant

// timer says when an entry wants attention. Each entry has exactly one, also a
// closed one whose number is not free yet: so deadlines may move to later times
// without touching the heap, and nothing is looked for in it.
type timer struct{ at, slot uint32 }

// timers is a heap, the earliest first; of equal ones any order.
type timers struct {
	chunks []*[chunkRows]timer
	n      int
}

func (h *timers) at(i int) *timer { return &h.chunks[i/chunkRows][i%chunkRows] }

func (h *timers) push(t timer) {
	if h.n == len(h.chunks)*chunkRows {
		h.chunks = append(h.chunks, new([chunkRows]timer))
	}
	i := h.n
	h.n++
	for i > 0 {
		up := (i - 1) / 2
		if h.at(up).at <= t.at {
			break
		}
		*h.at(i) = *h.at(up)
		i = up
	}
	*h.at(i) = t
}

// replaceTop puts t in the place of the earliest.
func (h *timers) replaceTop(t timer) {
	i := 0
	for {
		down := 2*i + 1
		if down >= h.n {
			break
		}
		if down+1 < h.n && h.at(down+1).at < h.at(down).at {
			down++
		}
		if h.at(down).at >= t.at {
			break
		}
		*h.at(i) = *h.at(down)
		i = down
	}
	*h.at(i) = t
}

func (h *timers) pop() {
	h.n--
	if last := *h.at(h.n); h.n > 0 {
		h.replaceTop(last)
	}
}

// clear empties the heap and keeps its memory.
func (h *timers) clear() { h.n = 0 }

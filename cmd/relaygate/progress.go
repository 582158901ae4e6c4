package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// progress is a bar on standard error, shown only where a person looks at it.
// Whole lines for the same terminal are written through it.
type progress struct {
	w     io.Writer // nil: not shown
	lines io.Writer
	name  string
	file  *capture.File
	now   func() time.Time
	ticks int
	drawn time.Time
	shown bool
}

func newProgress(e *env) *progress {
	p := &progress{lines: e.Stdout, now: e.Now}
	if e.ErrTerminal {
		p.w = e.Stderr
	}
	return p
}

// begin is for the next file, whose bar is not shown if it is read soon.
func (p *progress) begin(name string, file *capture.File) {
	p.name, p.file = authz.Quote(name), file
	if p.w != nil {
		p.drawn = p.now()
	}
}

// Write writes lines where the bar was.
func (p *progress) Write(lines []byte) (int, error) {
	p.clear()
	return p.lines.Write(lines)
}

// tick redraws the bar a few times a second. It looks at the clock now and then.
func (p *progress) tick() {
	const ticksPerLook, redraw, width = 256, 200 * time.Millisecond, 30
	if p.ticks++; p.w == nil || p.ticks%ticksPerLook != 0 {
		return
	}
	now := p.now()
	if now.Sub(p.drawn) < redraw {
		return
	}
	p.drawn, p.shown = now, true
	read, total := p.file.Progress()
	if total <= 0 {
		fmt.Fprintf(p.w, "\r\x1b[K%s: %d MB", p.name, read>>20)
		return
	}
	done := min(int(read*width/total), width)
	fmt.Fprintf(p.w, "\r\x1b[K%s [%s%s] %d %%", p.name, strings.Repeat("#", done), strings.Repeat(".", width-done), read*100/total)
}

// clear removes the bar.
func (p *progress) clear() {
	if p.shown {
		p.shown = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

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
type progress struct {
	w     io.Writer // nil: not shown
	name  string
	file  *capture.File
	now   func() time.Time
	ticks int
	drawn time.Time
	shown bool
}

func newProgress(e *env, name string, file *capture.File) *progress {
	p := &progress{name: authz.Quote(name), file: file, now: e.Now}
	if e.ErrTerminal {
		p.w = e.Stderr
		p.drawn = e.Now()
	}
	return p
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
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

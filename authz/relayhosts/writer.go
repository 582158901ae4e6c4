package relayhosts

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Config says which files a Writer keeps.
type Config struct {
	// Hosts is the path of relayhosts, Users that of the users file; an empty
	// path writes none.
	Hosts, Users string
	Dialect      Dialect
}

// How often files are written.
const (
	// MinInterval lies between two writes, and after a failed one.
	MinInterval = time.Second
	// MaxInterval passes at most without one: a reader ignores a users file
	// that is older than two hours.
	MaxInterval = time.Hour
	// maxRetry is the longest pause after failures.
	maxRetry = time.Minute
)

// Writer keeps the files equal to a list of grants. It has no clock and no
// goroutine: call Changed when grants change, and Write when Due says so.
//
// It is not safe for concurrent use.
type Writer struct {
	files   []*file
	started bool
	dirty   bool
	// next is the earliest, latest the last moment for the next write.
	next, latest time.Time
	retry        time.Duration
}

// file is one of the two files.
type file struct {
	path     string
	target   string // what path named when it was written last
	render   func([]Entry) []byte
	written  []byte // what we wrote last; nil before the first time
	left     mark   // how we left it; none if somebody else was there at once
	backedUp bool
}

// mark tells a file from what it was, without reading it.
type mark struct {
	inode    uint64
	size     int64
	modified time.Time
}

func markOf(path string) mark {
	info, err := os.Stat(path)
	if err != nil {
		return mark{}
	}
	m := mark{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.inode = st.Ino
	}
	return m
}

// Report says what a Write did.
type Report struct {
	// Written are the paths whose content was replaced, Touched those whose
	// content was right and whose time was renewed.
	Written, Touched []string
	// Repaired are the paths that somebody else had changed since our last
	// write.
	Repaired []string
	// Foreign is what was there before the first start, with its backup.
	Foreign []Foreign
}

// NewWriter makes a Writer. It writes nothing before the first Write, which is
// due at once, so that what an earlier run left does not stay.
func NewWriter(cfg Config) *Writer {
	w := &Writer{}
	if cfg.Hosts != "" {
		w.files = append(w.files, &file{path: cfg.Hosts, render: func(g []Entry) []byte {
			return RenderHosts(cfg.Dialect, g)
		}})
	}
	if cfg.Users != "" {
		w.files = append(w.files, &file{path: cfg.Users, render: RenderUsers})
	}
	return w
}

// Changed says that the grants are not what was written.
func (w *Writer) Changed() { w.dirty = true }

// Look makes the next Write due where somebody else has been at a file. It costs
// a stat(2) for each.
func (w *Writer) Look() {
	for _, f := range w.files {
		w.dirty = w.dirty || f.written != nil && (f.left == mark{} || markOf(f.path) != f.left)
	}
}

// Due is when the next Write should come; it may lie in the past. It reports
// false if there is nothing to write ever.
func (w *Writer) Due() (time.Time, bool) {
	if len(w.files) == 0 {
		return time.Time{}, false
	}
	if !w.started || w.dirty || w.retry > 0 {
		return w.next, true
	}
	return w.latest, true
}

// Write makes the files equal to grants. One file's error does not stop the
// other; after an error the next Write is due after a pause that grows. What takes
// long is not done again soon.
func (w *Writer) Write(now time.Time, grants []Entry) (Report, error) {
	start := time.Now()
	var report Report
	var errs []error
	for _, f := range w.files {
		if err := f.write(now, f.render(grants), &report); err != nil {
			errs = append(errs, err)
		}
	}
	w.started = true
	w.latest = now.Add(MaxInterval)
	if err := errors.Join(errs...); err != nil {
		w.retry = min(max(2*w.retry, MinInterval), maxRetry)
		w.next = now.Add(w.retry)
		return report, err
	}
	w.dirty, w.retry = false, 0
	const share = 20 // of the time, at most
	w.next = now.Add(max(MinInterval, share*time.Since(start)))
	return report, nil
}

// Forsake empties the files that an earlier run wrote and nobody will keep from now
// on: their lines never run out.
func (w *Writer) Forsake() error {
	var errs []error
	for _, f := range w.files {
		ours, err := backedUp(f.path)
		if err == nil && ours {
			err = Replace(f.path, nil)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// leave notes how the file was left. Content is compared behind the mark: a change
// between our own and the mark shows in it, and a later one in the mark.
func (f *file) leave() {
	f.left = markOf(f.path)
	if held, err := readExisting(f.path); err != nil || !bytes.Equal(held, f.written) {
		f.left = mark{}
	}
}

// write brings one file up to date.
func (f *file) write(now time.Time, data []byte, report *Report) (err error) {
	defer func() {
		if err != nil {
			f.written = nil // what it holds now is nobody's
		}
		f.leave()
	}()
	if !f.backedUp {
		foreign, err := backup(f.path, data)
		if err != nil {
			return err
		}
		f.backedUp = true
		if foreign != nil {
			report.Foreign = append(report.Foreign, *foreign)
		}
	}
	target, err := resolve(f.path)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return errors.Join(f.moved(target), f.renew(target, now, data, report))
}

// renew makes the content of the file that path names data.
func (f *file) renew(target string, now time.Time, data []byte, report *Report) error {
	held, err := readExisting(target)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if f.written != nil && (held == nil || !bytes.Equal(held, f.written)) {
		report.Repaired = append(report.Repaired, f.path)
	}
	if held != nil && bytes.Equal(held, data) {
		if err := touch(f.path, now); err != nil {
			return fmt.Errorf("touch %s: %w", f.path, err)
		}
		f.written = data
		report.Touched = append(report.Touched, f.path)
		return nil
	}
	if err := Replace(f.path, data); err != nil {
		return err
	}
	f.written = data
	report.Written = append(report.Written, f.path)
	return nil
}

// moved empties the file that path named before, if it is as we left it: a reader that
// knows it by its own name would go on to believe it.
func (f *file) moved(target string) error {
	former := f.target
	f.target = target
	if former == "" || former == target {
		return nil
	}
	if now, err := resolve(former); err == nil && now == target { // it was moved there itself
		return nil
	}
	held, err := readExisting(former)
	if err == nil && f.written != nil && bytes.Equal(held, f.written) {
		err = Replace(former, nil)
	}
	if err != nil {
		f.target = former
		return fmt.Errorf("empty %s, which %s named before: %w", former, f.path, err)
	}
	return nil
}

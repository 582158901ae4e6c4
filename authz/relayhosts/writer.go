package relayhosts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
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
	// minInterval lies between two writes, and after a failed one.
	minInterval = time.Second
	// maxInterval passes at most without one: a reader ignores a users file
	// that is older than two hours.
	maxInterval = time.Hour
	// maxRetry is the longest pause after failures, and maxRest after a write that took
	// long, be it that a disk was slow for once: what the file says meanwhile lets in
	// whose grant is over, and keeps out whose grant is new.
	maxRetry = 5 * time.Second
	maxRest  = 10 * time.Second
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
	path   string
	render func([]Entry) []byte
	last   place // as we wrote it; zero before the first time
	former place // what path named before, where that is to be emptied still
	sure   bool  // nothing has failed since: who finds it changed finds somebody else's work
	left   mark  // how we left it; none if somebody else was there at once
	loose  bool  // others could write it then
}

// place is a file that path named, and what we wrote to it.
type place struct {
	path    string
	written []byte
}

// mark tells a file from what it was, without reading it.
type mark struct {
	inode    uint64
	size     int64
	modified time.Time
	mode     fs.FileMode
	owner    uint32
}

func markOf(path string) mark {
	info, err := os.Stat(path)
	if err != nil {
		return mark{}
	}
	m := mark{size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.inode, m.owner = st.Ino, st.Uid
	}
	return m
}

// Report says what a Write did.
type Report struct {
	// Written are the paths whose content was replaced, Touched those whose
	// content was right and whose time was renewed.
	Written, Touched []string
	// Repaired are the files that somebody else had changed since our last write,
	// with the lines that were there and are not ours.
	Repaired []Foreign
	// Foreign is what was there before the first write that is not ours: with a
	// backup before the first start ever, else also what a killed run left.
	Foreign []Foreign
	// Failed says, by path, what was not done; nil if all was.
	Failed map[string]error
}

// NewWriter makes a Writer. It writes nothing before the first Write, which is
// due at once, so that what an earlier run left does not stay.
func NewWriter(cfg Config) *Writer {
	w := &Writer{}
	if cfg.Hosts != "" {
		w.files = append(w.files, &file{path: cfg.Hosts, render: func(g []Entry) []byte {
			return renderHosts(cfg.Dialect, g)
		}})
	}
	if cfg.Users != "" {
		w.files = append(w.files, &file{path: cfg.Users, render: renderUsers})
	}
	return w
}

// Changed says that the grants are not what was written.
func (w *Writer) Changed() { w.dirty = true }

// Look makes the next Write due where somebody else has been at a file, or where it seems
// older than it is, as the clock was set or the machine slept. It costs a stat(2) for each.
func (w *Writer) Look(now time.Time) {
	for _, f := range w.files {
		w.dirty = w.dirty || f.sure && (f.left == mark{} || markOf(f.path) != f.left || now.Sub(f.left.modified) > maxInterval)
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
			if report.Failed == nil {
				report.Failed = make(map[string]error)
			}
			report.Failed[f.path] = err
		}
	}
	w.started = true
	w.latest = now.Add(maxInterval)
	if err := errors.Join(errs...); err != nil {
		w.retry = min(max(2*w.retry, minInterval), maxRetry)
		w.next = now.Add(w.retry)
		return report, err
	}
	w.dirty, w.retry = false, 0
	const share = 20 // of the time, at most
	w.next = now.Add(min(max(minInterval, share*time.Since(start)), maxRest))
	return report, nil
}

// Forsake empties the files that an earlier run wrote and nobody will keep from now
// on: their lines never run out.
func (w *Writer) Forsake() error {
	var errs []error
	for _, f := range w.files {
		ours := false
		target, err := resolve(f.path)
		if err == nil {
			ours, err = backedUp(target)
		}
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
	if same, err := equals(f.path, f.last.written); err != nil || !same {
		f.left = mark{}
	}
	before := f.loose
	if f.loose = loose(f.path); f.loose && !before { // at once, or it stays so
		f.left = mark{}
	}
}

// write brings one file up to date.
func (f *file) write(now time.Time, data []byte, report *Report) (err error) {
	defer func() {
		f.sure = err == nil
		f.leave()
	}()
	target, err := resolve(f.path)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	written := f.last.path == target
	foreign, err := backup(f.path, target, data, written)
	if err != nil && !written {
		return err // what it holds would be lost
	}
	if foreign != nil {
		report.Foreign = append(report.Foreign, *foreign)
	}
	return errors.Join(err, f.moved(target), f.renew(target, now, data, report))
}

// renew makes the content of the file that path names data.
func (f *file) renew(target string, now time.Time, data []byte, report *Report) error {
	held, err := readExisting(target, max(len(data), len(f.last.written))+lookLimit)
	whole := held // lines
	if errors.Is(err, errTooLong) {
		whole, err = held[:bytes.LastIndexByte(held, '\n')+1], nil
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	changed := f.sure && (held == nil || !bytes.Equal(held, f.last.written))
	same := held != nil && bytes.Equal(held, data)
	if same && !loose(target) {
		if err := os.Chtimes(target, time.Time{}, now); err != nil {
			return fmt.Errorf("renew the time of %s: %w", f.path, err)
		}
		report.Touched = append(report.Touched, f.path)
	} else {
		if err := Replace(f.path, data); err != nil {
			return err
		}
		report.Written = append(report.Written, f.path)
	}
	foreign := Foreign{Path: f.path}
	if changed || f.last.path == "" && !same {
		foreign.compare(whole, data, f.last.written)
	}
	switch {
	case changed:
		report.Repaired = append(report.Repaired, foreign)
	case foreign.Count > 0 && !slices.ContainsFunc(report.Foreign, func(o Foreign) bool { return o.Path == f.path }):
		report.Foreign = append(report.Foreign, foreign)
	}
	f.last = place{target, data}
	return nil
}

// lookLimit is how much longer than ours a file is read to tell what somebody else
// put there, in bytes.
const lookLimit = 1 << 20

// moved empties the file that path named before, if it is as we left it: a reader that
// knows it by its own name would go on to believe it.
func (f *file) moved(target string) error {
	if last := f.last.path; last != "" && last != target {
		if now, err := resolve(last); err != nil || now != target { // else it was moved there itself
			f.former = f.last
		}
	}
	former := f.former
	if former.path == "" || former.path == target {
		f.former = place{}
		return nil
	}
	ours, err := equals(former.path, former.written)
	if err == nil && ours {
		err = Replace(former.path, nil)
	}
	if err != nil && !errors.Is(err, errNoFile) {
		return fmt.Errorf("empty %s, which %s named before: %w", former.path, f.path, err)
	}
	f.former = place{}
	return nil
}

package relayhosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func one(i int) []Entry {
	return []Entry{entry(fmt.Sprintf("203.0.113.%d/32", i), grant.Login, "alice")}
}

func write(t *testing.T, w *Writer, now time.Time, g []Entry) Report {
	t.Helper()
	r, err := w.Write(now, g)
	must(t, err)
	return r
}

// due wants a Write to be due at a time, which depends on how long the last took: in
// synctest none takes any.
func due(t *testing.T, w *Writer, want time.Time) {
	t.Helper()
	if got, ok := w.Due(); !ok || !got.Equal(want) {
		t.Errorf("due at %v (%v), want %v", got, ok, want)
	}
}

func TestWriterPace(t *testing.T) { synctest.Test(t, testWriterPace) }

func testWriterPace(t *testing.T) {
	dir := t.TempDir()
	hosts, users := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "users")
	w := NewWriter(Config{Hosts: hosts, Users: users})
	if at, ok := w.Due(); !ok || at.After(start) {
		t.Errorf("the first write is due at %v (%v), want at once", at, ok)
	}
	if r := write(t, w, start, nil); len(r.Written) != 2 || len(r.Foreign) != 0 || len(r.Repaired) != 0 {
		t.Errorf("first: %+v", r)
	}
	holds(t, hosts, "")
	due(t, w, start.Add(maxInterval))
	w.Changed()
	due(t, w, start.Add(minInterval))
	now := start.Add(minInterval)
	write(t, w, now, one(1))
	holds(t, hosts, "203.0.113.1\n")
	holds(t, users, "203.0.113.1: alice\n")
	due(t, w, now.Add(maxInterval))

	now = now.Add(maxInterval)
	if r := write(t, w, now, one(1)); len(r.Written) != 0 || len(r.Touched) != 2 {
		t.Errorf("nothing changed: %+v", r)
	}
	if info, err := os.Stat(users); err != nil || !info.ModTime().Equal(now) {
		t.Errorf("modified at %v, %v; want %v", info.ModTime(), err, now)
	}
}

// What took long is not done again soon, but a disk that was slow once does not let the
// file say for minutes who may relay no more.
func TestWriterRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWriter(Config{Hosts: filepath.Join(t.TempDir(), "relayhosts")})
		render := w.files[0].render
		for took, rest := range map[time.Duration]time.Duration{
			time.Millisecond: minInterval, 200 * time.Millisecond: 4 * time.Second, 3 * time.Second: maxRest, time.Hour: maxRest,
		} {
			w.files[0].render = func(list []Entry) []byte {
				time.Sleep(took)
				return render(list)
			}
			write(t, w, start, nil)
			w.Changed()
			due(t, w, start.Add(rest))
		}
	})
}

func TestWriterWithoutFiles(t *testing.T) {
	w := NewWriter(Config{})
	w.Changed()
	if at, ok := w.Due(); ok {
		t.Errorf("due at %v", at)
	}
}

func TestWriterRepairs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, one(1))
	for i, tt := range []struct {
		spoil func() error
		lines []string
	}{
		{func() error { return os.WriteFile(path, []byte("198.51.100.66\n"), 0o644) }, []string{"198.51.100.66"}},
		{func() error { return os.WriteFile(path, []byte("203.0.113.1\n198.51.100.66\n"), 0o644) }, []string{"198.51.100.66"}},
		{func() error { return os.Remove(path) }, nil},
		{func() error { return os.WriteFile(path, nil, 0o644) }, nil},
		{func() error { return os.Truncate(path, sizeLimit+1) }, nil}, // however long
	} {
		must(t, tt.spoil())
		r := write(t, w, start.Add(time.Duration(i)*time.Minute), one(1))
		if d := cmp.Diff(Report{Written: []string{path}, Repaired: []Foreign{{Path: path, Lines: tt.lines, Count: len(tt.lines)}}}, r); d != "" {
			t.Errorf("%d (-want +got):\n%s", i, d)
		}
		holds(t, path, "203.0.113.1\n")
	}
}

// Whoever else writes to a file is noticed without reading it.
func TestWriterLooks(t *testing.T) { synctest.Test(t, testWriterLooks) }

func testWriterLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	w := NewWriter(Config{Hosts: path})
	w.Look(start) // before the first write there is nothing to compare
	now := start
	for name, harm := range map[string]func() error{
		"removed":  func() error { return os.Remove(path) },
		"emptied":  func() error { return os.Truncate(path, 0) },
		"replaced": func() error { return Replace(path, []byte("203.0.113.9\n")) },
		"forged": func() error { // of the same length
			return errors.Join(os.WriteFile(path, []byte("203.0.113.9\n"), 0o644), os.Chtimes(path, now, now.Add(time.Second)))
		},
	} {
		write(t, w, now, one(1))
		w.Look(start)
		due(t, w, now.Add(maxInterval))
		must(t, harm())
		w.Look(start)
		due(t, w, now.Add(minInterval))
		now = now.Add(minInterval)
		if r := write(t, w, now, one(1)); len(r.Repaired) != 1 {
			t.Errorf("%s: %+v, want it repaired", name, r)
		}
		holds(t, path, "203.0.113.1\n")
	}
}

// Where a link comes to name another file, the one that it named before opens nothing
// any more: a mail server may know it by its own name.
func TestWriterFollowsALinkThatMoves(t *testing.T) { synctest.Test(t, testWriterFollowsALinkThatMoves) }

func testWriterFollowsALinkThatMoves(t *testing.T) {
	dir := t.TempDir()
	path, a, b := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "a"), filepath.Join(dir, "b")
	point := func(target string) {
		t.Helper()
		must(t, errors.Join(os.RemoveAll(path), os.Symlink(target, path)))
	}
	point(a)
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, one(1))
	holds(t, a, "203.0.113.1\n")
	point(b)
	w.Look(start)
	due(t, w, start.Add(minInterval))
	write(t, w, start.Add(minInterval), one(1))
	holds(t, a, "")
	holds(t, b, "203.0.113.1\n")

	put(t, b, "somebody else's\n") // what we did not write stays
	point(a)
	write(t, w, start.Add(time.Minute), one(2))
	holds(t, a, "203.0.113.2\n")
	holds(t, b, "somebody else's\n")

	point(b)
	if err := errors.Join(os.Remove(a), os.Symlink(a, a)); err != nil { // it cannot be looked at
		t.Fatal(err)
	}
	if _, err := w.Write(start.Add(2*time.Minute), one(3)); err == nil || !strings.Contains(err.Error(), "which "+path+" named before") {
		t.Errorf("the former file cannot be emptied: %v", err)
	}
	holds(t, b, "203.0.113.3\n") // that keeps nothing from the new one
}

// Where the clock is set forward, or the machine slept, a reader takes the file for old.
func TestWriterRenewsWhatSeemsOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	w := NewWriter(Config{Hosts: path})
	now := time.Now()
	write(t, w, now, one(1))
	if w.Look(now.Add(time.Minute)); w.dirty {
		t.Error("it is renewed after a minute")
	}
	now = now.Add(24 * time.Hour)
	w.Look(now)
	if !w.dirty {
		t.Error("it is not renewed")
	}
	if r := write(t, w, now, one(1)); len(r.Touched) != 1 {
		t.Errorf("%+v, want it touched", r)
	}
	if w.Look(now); w.dirty {
		t.Error("it is renewed for ever")
	}
}

// A file that was moved, and is now a link to where it went, is not emptied in between.
func TestWriterEmptiesNoFileThatOnlyMoved(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "moved")
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, one(1))
	must(t, errors.Join(os.Rename(path, moved), os.Symlink(moved, path)))
	r := write(t, w, start.Add(time.Minute), one(1))
	if len(r.Touched) != 1 || len(r.Repaired) != 0 {
		t.Errorf("%+v, want it touched alone", r)
	}
	holds(t, moved, "203.0.113.1\n")
}

func TestWriterKeepsForeignLines(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "relayhosts")
	foreign := "203.0.113.1\n198.51.100.66\n# note\n\n"
	put(t, path, foreign)
	r := write(t, NewWriter(Config{Hosts: path}), start, one(1))
	want := []Foreign{{Path: path, Backup: path + BackupSuffix, Lines: []string{"198.51.100.66", "# note"}, Count: 2}}
	if d := cmp.Diff(want, r.Foreign); d != "" {
		t.Errorf("foreign lines (-want +got):\n%s", d)
	}
	holds(t, path, "203.0.113.1\n")
	holds(t, path+BackupSuffix, foreign)

	// The backup stays as it was, and what a later run finds is told.
	put(t, path, "203.0.113.1\n198.51.100.67\n")
	r = write(t, NewWriter(Config{Hosts: path}), start, one(1))
	if d := cmp.Diff([]Foreign{{Path: path, Lines: []string{"198.51.100.67"}, Count: 1}}, r.Foreign); d != "" {
		t.Errorf("second run (-want +got):\n%s", d)
	}
	holds(t, path+BackupSuffix, foreign)
}

func TestWriterMarksItsFirstStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	write(t, NewWriter(Config{Hosts: path}), start, one(1)) // there was no file
	if r := write(t, NewWriter(Config{Hosts: path}), start, one(1)); len(r.Foreign) != 0 {
		t.Errorf("our own line counts as foreign: %+v", r.Foreign)
	}
	holds(t, path+BackupSuffix, "")
}

func TestWriterBoundsForeignLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	put(t, path, strings.Repeat("x\n", 5000)+strings.Repeat("y", 100_000))
	r := write(t, NewWriter(Config{Hosts: path}), start, nil)
	if len(r.Foreign) != 1 || r.Foreign[0].Count != 5001 || len(r.Foreign[0].Lines) != foreignLimit {
		t.Errorf("%d reports", len(r.Foreign))
	}
}

// A line that was cut is not told: 192.0.2.1 may have been 192.0.2.17.
func TestWriterTellsWholeLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	w := NewWriter(Config{Hosts: path})
	write(t, w, start, nil)
	put(t, path, "192.0.2.7\n"+strings.Repeat("0", lookLimit)+"\n")
	r := write(t, w, start.Add(time.Minute), nil)
	if d := cmp.Diff([]Foreign{{Path: path, Lines: []string{"192.0.2.7"}, Count: 1}}, r.Repaired); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestWriterRetries(t *testing.T) { synctest.Test(t, testWriterRetries) }

func testWriterRetries(t *testing.T) {
	dir := t.TempDir()
	hosts, users := filepath.Join(dir, "missing", "relayhosts"), filepath.Join(dir, "users")
	w := NewWriter(Config{Hosts: hosts, Users: users})
	now := start
	for _, pause := range []time.Duration{1, 2, 4, 5, 5} {
		if _, err := w.Write(now, one(1)); err == nil || !strings.Contains(err.Error(), hosts) {
			t.Fatalf("error %v, want one about %s", err, hosts)
		}
		due(t, w, now.Add(pause*time.Second))
		now = now.Add(pause * time.Second)
	}
	holds(t, users, "203.0.113.1: alice\n") // the other file is written all the same
	must(t, os.Mkdir(filepath.Dir(hosts), 0o755))
	write(t, w, now, one(2))
	holds(t, hosts, "203.0.113.2\n")
	due(t, w, now.Add(maxInterval))
}

func TestWriterRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewWriter(Config{Hosts: dir}).Write(start, nil); err == nil {
		t.Error("a directory was replaced")
	}
}

package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What somebody does to the file while it is open is found, and undone.
func TestMend(t *testing.T) {
	for _, tt := range []struct {
		name, done string
		harm       func(path string) error
		empty      bool
	}{
		{"nothing", "", func(string) error { return nil }, false},
		{"removed", "removed", os.Remove, false},
		{"removed with its folder", "removed", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, false},
		{"replaced", "replaced", func(path string) error {
			return errors.Join(os.WriteFile(path+".x", []byte("another"), 0o600), os.Rename(path+".x", path))
		}, false},
		{"emptied", "spoiled", func(path string) error { return os.Truncate(path, 0) }, true},
		{"written over", "spoiled", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte(strings.Repeat("another", 8000)))
			return errors.Join(err, f.Close())
		}, true},
	} {
		path := filepath.Join(t.TempDir(), "lib", "state.db")
		s := open(t, path)
		s.Put("denials", "203.0.113.9", []byte("for good"))
		s.Put("grants", "192.0.2.1", []byte("x"))
		flush(t, s)
		s.Put("grants", "192.0.2.2", []byte("x"))
		flush(t, s)
		must(t, tt.harm(path))
		s.Put("grants", "192.0.2.3", []byte("x"))
		_ = s.Flush() // it finds what is spoiled
		done, empty, err := s.Mend(at)
		if err != nil || empty != tt.empty || !strings.Contains(done, tt.done) || (done == "") != (tt.done == "") {
			t.Errorf("%s: Mend = %q, %v, %v", tt.name, done, empty, err)
		}
		if empty { // the store's owner knows
			s.Put("denials", "203.0.113.9", []byte("for good"))
		}
		s.Put("grants", "192.0.2.4", []byte("x"))
		flush(t, s)
		if done, _, err := s.Mend(at); done != "" || err != nil {
			t.Errorf("%s: a second Mend = %q, %v", tt.name, done, err)
		}
		if _, err := Open(path, at); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: another one may open it: %v", tt.name, err)
		}
		shut(t, s)
		s = open(t, path)
		if got := fmt.Sprint(all(t, s, "denials")); got != "map[203.0.113.9:for good]" {
			t.Errorf("%s: afterwards %s is denied", tt.name, got)
		}
		if got := all(t, s, "grants"); got["192.0.2.4"] != "x" || !tt.empty && len(got) != 4 {
			t.Errorf("%s: afterwards %v is granted", tt.name, got)
		}
		shut(t, s)
	}
}

// A page of the file that is open cannot be read, as on a disk that fails: that is an error
// of whatever comes upon it, each time, and keeps nobody waiting, at the end neither.
func TestPagesThatCannotBeRead(t *testing.T) {
	for _, left := range []int64{0, 2, 3} {
		path := filepath.Join(t.TempDir(), "state.db")
		s := open(t, path)
		s.Put("grants", "192.0.2.1", []byte("x"))
		flush(t, s)
		must(t, s.merge())
		must(t, os.Truncate(path, left*int64(os.Getpagesize())))
		ended := make(chan error)
		go func() {
			for range 2 {
				none := func(string, []byte) error { return nil }
				if err := s.Each("grants", none); err == nil {
					t.Errorf("of %d pages records were read", left)
				}
				s.Put("grants", "192.0.2.2", []byte("x"))
				if err := s.Flush(); err == nil || s.Stats().LastError == "" {
					t.Errorf("to %d pages was written: %+v", left, s.Stats())
				}
			}
			ended <- s.Close()
		}()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("with %d pages nothing is said of what was not written", left)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("with %d pages it hangs", left)
		}
	}
}

// Where there is no room, the store goes on as it was, and says so.
func TestMendThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lib", "state.db")
	s := open(t, path)
	s.Put("grants", "192.0.2.1", []byte("x"))
	flush(t, s)
	must(t, errors.Join(os.RemoveAll(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600)))
	for range 2 {
		if done, _, err := s.Mend(at); err == nil || done != "" || s.Stats().LastError == "" {
			t.Errorf("Mend = %q, %v; %+v", done, err, s.Stats())
		}
	}
	must(t, os.Remove(filepath.Dir(path)))
	if done, empty, err := s.Mend(at); err != nil || empty || done == "" || s.Stats().LastError != "" {
		t.Errorf("Mend = %q, %v, %v; %+v", done, empty, err, s.Stats())
	}
	shut(t, s)
	s = open(t, path)
	if got := all(t, s, "grants"); len(got) != 1 {
		t.Errorf("%v is left", got)
	}
	shut(t, s)
}

// Where there was no memory to map the file as it grew, it is opened again when there is.
func TestNoMemoryForTheMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	s.Put("denials", "203.0.113.9", []byte("for good"))
	flush(t, s)
	enough := scarceMemory(t)
	n := 0
	for ; s.Stats().LastError == ""; n++ {
		if n > 200 {
			t.Fatal("there is memory for any file")
		}
		s.Put("grants", fmt.Sprint("192.0.2.", n), make([]byte, 1<<20))
		_ = s.Flush()
	}
	_ = s.Flush() // as at its pace: it finds the file unmapped
	enough()
	done, empty, err := s.Mend(at)
	if err != nil || empty || !strings.Contains(done, "opened again") || s.Stats().LastError != "" {
		t.Errorf("Mend = %q, %v, %v; %+v", done, empty, err, s.Stats())
	}
	flush(t, s)
	if done, _, err := s.Mend(at); done != "" || err != nil {
		t.Errorf("a second Mend = %q, %v", done, err)
	}
	shut(t, s)
	s = open(t, path)
	if got, denied := all(t, s, "grants"), all(t, s, "denials"); len(got) != n || len(denied) != 1 {
		t.Errorf("%d of %d records, %v", len(got), n, denied)
	}
	shut(t, s)
}

// scarceMemory leaves the process no more address space than what Go asks for in a test.
func scarceMemory(t *testing.T) (enough func()) {
	t.Helper()
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_AS, &before))
	runtime.KeepAlive(make([]byte, 512<<20)) // what Go had once it need not ask for
	runtime.GC()
	status, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var pages uint64
	_, err = fmt.Sscan(string(status), &pages)
	must(t, err)
	const room = 100 << 20
	must(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: pages*uint64(os.Getpagesize()) + room, Max: before.Max}))
	enough = func() { must(t, unix.Setrlimit(unix.RLIMIT_AS, &before)) }
	t.Cleanup(enough)
	return enough
}

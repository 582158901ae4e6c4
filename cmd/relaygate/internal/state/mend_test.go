package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// On a full disk what was written stays, what is put waits, and all of it is there
// when there is room again: also if a merge found none.
func TestFullDisk(t *testing.T) {
	folder := disk(t)
	path := filepath.Join(folder, "state.db")
	s := open(t, path)
	n := 0
	put := func() {
		s.Put("grants", fmt.Sprint("192.0.2.", n), bytes.Repeat([]byte("x"), 3000))
		n++
	}
	for range 1000 {
		if put(); s.Flush() != nil {
			break
		}
	}
	if s.Stats().Errors == 0 {
		t.Fatal("the disk does not get full")
	}
	for range 5 {
		if put(); s.merge() == nil {
			t.Error("a full disk takes a merge")
		}
	}
	if st := s.Stats(); st.Pending != 6 || st.LastError == "" || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	remount(t, folder, 0, "size=16m")
	flush(t, s)
	if got := all(t, s, "grants"); len(got) != n {
		t.Errorf("%d of %d records", len(got), n)
	}
	shut(t, s)
	s = open(t, path)
	if got := all(t, s, "grants"); len(got) != n || s.Aside() != "" {
		t.Errorf("%d of %d records, %s", len(got), n, s.Aside())
	}
	shut(t, s)
}

// disk is a folder on a disk of 1 MB.
func disk(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := unix.Mount("relaygate", folder, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
			t.Skip("mounting needs root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	must(t, os.Chmod(folder, 0o700))
	return folder
}

func remount(t *testing.T, folder string, flags uintptr, options string) {
	t.Helper()
	must(t, unix.Mount("relaygate", folder, "tmpfs", unix.MS_REMOUNT|flags, options))
}

// fillDisk takes what room a disk has left.
func fillDisk(t *testing.T, folder string) {
	t.Helper()
	f, err := os.Create(filepath.Join(folder, "mail"))
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
}

// A start that cannot write its file goes on in memory with all that the old one holds,
// and says so until there is room: then everything is in the file. Without that the old
// one is what it was.
func TestStartThatCannotWrite(t *testing.T) {
	for _, tt := range []struct {
		name      string
		old       func(path string) error
		readOnly  bool
		grants    int // that are known, with one that is put then
		denials   int
		forgotten bool // the file of before was put aside
	}{
		{name: "full", grants: 201, denials: 1},
		{name: "read-only", readOnly: true, grants: 201, denials: 1},
		{name: "full, for the first time", old: os.Remove, grants: 1},
		{name: "full, and its file of another version", old: func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			version := func(v byte) []byte { return append([]byte(markKey), 0, 0, 0, v) }
			data = bytes.ReplaceAll(data, version(Version), version(Version+1))
			return os.WriteFile(path, data, 0o600)
		}, grants: 1, denials: 1, forgotten: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder := disk(t)
			path := filepath.Join(folder, "state.db")
			s := open(t, path)
			for i := range 200 {
				s.Put("grants", fmt.Sprint("192.0.2.", i), []byte("x"))
			}
			s.Put("denials", "203.0.113.9", []byte("for good"))
			shut(t, s)
			if tt.old != nil {
				must(t, tt.old(path))
			}
			fillDisk(t, folder)
			if tt.readOnly {
				remount(t, folder, unix.MS_RDONLY, "size=2m")
			}
			before, _ := os.ReadFile(path) // there may be none
			s, err := Open(path, at, "denials")
			must(t, err)
			s.Put("grants", "192.0.2.200", []byte("x"))
			flush(t, s)
			if _, _, err := s.Mend(at); err == nil || s.Unwritten() == nil || s.Stats().LastError == "" {
				t.Errorf("Mend says %v, Unwritten %v, Stats %+v", err, s.Unwritten(), s.Stats())
			}
			if after, _ := os.ReadFile(path); !tt.forgotten && !bytes.Equal(before, after) {
				t.Error("the old file was changed")
			}
			if _, err := os.Stat(path + ".new"); err == nil {
				t.Error("what there was no room for takes the rest")
			}
			remount(t, folder, 0, "size=16m")
			if done, empty, err := s.Mend(at); err != nil || empty || done == "" || s.Unwritten() != nil || s.Stats().LastError != "" {
				t.Errorf("Mend says %q, %v, %v; Unwritten %v", done, empty, err, s.Unwritten())
			}
			shut(t, s)
			s = open(t, path)
			if g, d := len(all(t, s, "grants")), len(all(t, s, "denials")); g != tt.grants || d != tt.denials {
				t.Errorf("%d grants, %d denials", g, d)
			}
			shut(t, s)
			if left, _ := filepath.Glob(path + ".*-*"); len(left) > 0 != tt.forgotten { // the pattern is good
				t.Errorf("put aside: %v", left)
			}
		})
	}
}

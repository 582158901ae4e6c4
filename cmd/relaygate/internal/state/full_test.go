//go:build linux

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
	folder := t.TempDir()
	if err := unix.Mount("relaygate", folder, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
			t.Skip("mounting needs root")
		}
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
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
	if err := unix.Mount("relaygate", folder, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
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

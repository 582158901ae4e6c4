package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecordsOutliveTheProgram(t *testing.T) {
	path := filled(t, 3)
	s := open(t, path)
	if s.Fresh() || s.Aside() != "" {
		t.Errorf("fresh %v, aside %q, want what was written", s.Fresh(), s.Aside())
	}
	if got := all(t, s, "grants"); len(got) != 3 || got["192.0.2.1"] != strings.Repeat("x", 40) {
		t.Errorf("grants %v", got)
	}
	s.Delete("grants", "192.0.2.1")
	s.Delete("grants", "none")
	s.Put("grants", "192.0.2.2", []byte("new"))
	s.Put("grants", "192.0.2.7", nil)
	shut(t, s)
	s = open(t, path)
	defer shut(t, s)
	got := all(t, s, "grants")
	if _, there := got["192.0.2.1"]; there || len(got) != 3 || got["192.0.2.2"] != "new" {
		t.Errorf("grants after the changes: %v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

// When the file was written last is known at the next start.
func TestKeptTellsWhen(t *testing.T) {
	path := filled(t, 1)
	must(t, os.Chtimes(path, time.Time{}, at))
	s := open(t, path)
	if !s.Kept().Equal(at) {
		t.Errorf("kept %v, want %v", s.Kept(), at)
	}
	shut(t, s)
}

func TestNoFileIsFresh(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	defer shut(t, s)
	if !s.Fresh() || s.Aside() != "" || len(all(t, s, "grants")) != 0 {
		t.Errorf("no file: fresh %v, aside %q", s.Fresh(), s.Aside())
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path := filled(t, 1)
	s := open(t, path)
	_, err := Open(path, at)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("error %v, want ErrLocked with the process", err)
	}
	shut(t, s)
	shut(t, open(t, path))
}

func TestFilesOfOthersAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(path string) error
		want string
	}{
		{"writable file", func(p string) error { return os.Chmod(p, 0o666) }, "chmod go-w"},
		{"writable folder", func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "chmod go-w"},
		{"symbolic link", func(p string) error {
			return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p))
		}, "no regular file"},
		{"folder", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, "no regular file"},
		{"owner", func(p string) error {
			if os.Geteuid() != 0 {
				return errors.ErrUnsupported
			}
			return os.Chown(p, 65534, 65534)
		}, "chown it to root"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filled(t, 1)
			if err := tt.do(path); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("only root can give a file away")
			} else if err != nil {
				t.Fatal(err)
			}
			s, err := Open(path, at)
			if err == nil {
				shut(t, s)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestChangesAreWrittenInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(t.TempDir(), "state.db"))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for i := range 100 {
			s.Put("grants", "192.0.2.1", []byte{byte(i)})
			s.Put("grants", fmt.Sprint(i), nil)
		}
		synctest.Wait()
		if st := s.Stats(); st.Writes != 0 || st.Pending != 200 {
			t.Errorf("%+v, want all 200 pending", st)
		}
		<-time.After(groupEvery + time.Millisecond)
		synctest.Wait()
		if st := s.Stats(); st.Writes != 1 || st.Records != 200 || st.Pending != 0 {
			t.Errorf("%+v, want 200 changes in one group", st)
		}
		stop()
		must(t, <-done)
		shut(t, s)
	})
}

func TestFailedWriteStaysPending(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	s.Put("grants", "192.0.2.1", []byte("old"))
	s.database().MaxSize = 1 // nothing fits any more
	s.Put("grants", "192.0.2.2", bytes.Repeat([]byte("x"), 1<<20))
	if err := s.Flush(); err == nil {
		t.Fatal("a full file takes a record")
	}
	s.Put("grants", "192.0.2.1", []byte("new"))
	if st := s.Stats(); st.Errors != 1 || st.LastError == "" || st.Pending != 3 {
		t.Errorf("%+v, want one error and three pending", st)
	}
	s.database().MaxSize = maxFile
	must(t, s.Flush())
	if got := all(t, s, "grants"); got["192.0.2.1"] != "new" || len(got) != 2 {
		t.Errorf("%d grants, the first %q", len(got), got["192.0.2.1"])
	}
	if st := s.Stats(); st.LastError != "" {
		t.Errorf("last error %q after a good write", st.LastError)
	}
	shut(t, s)
}

// What is being written waits still: who looks for room for more must see it, as it
// comes back if the disk does not take it.
func TestPendingWhileItIsWritten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	s.Put("grants", "192.0.2.1", make([]byte, 1000))
	slow, err := s.database().Begin(true) // the disk takes its time
	must(t, err)
	done := make(chan error)
	go func() { done <- s.Flush() }()
	for s.waits() {
		runtime.Gosched()
	}
	if st := s.Stats(); st.Pending != 1 || st.PendingBytes < 1000 {
		t.Errorf("%d changes of %d bytes are pending, want 1 of 1000", st.Pending, st.PendingBytes)
	}
	must(t, errors.Join(slow.Rollback(), <-done))
	if st := s.Stats(); st.Pending != 0 {
		t.Errorf("%d changes are pending after the write", st.Pending)
	}
	shut(t, s)
}

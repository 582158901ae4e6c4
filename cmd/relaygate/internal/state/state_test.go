//go:build linux

package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shut(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// all is every record of a bucket.
func all(t *testing.T, s *Store, bucket string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := s.Each(bucket, func(k string, v []byte) error { got[k] = string(v); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// filled makes a state file with n grants and one denial.
func filled(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lib", "state.db")
	s := open(t, path)
	for i := range n {
		s.Put("grants", fmt.Sprintf("192.0.2.%d", i), []byte(strings.Repeat("x", 40)))
	}
	s.Put("denials", "203.0.113.9", []byte("for good"))
	shut(t, s)
	return path
}

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
	if err := os.Chtimes(path, time.Time{}, at); err != nil {
		t.Fatal(err)
	}
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

// Whatever is wrong with the file, the store begins empty and the
// file is kept.
func TestUnreadableFilesArePutAside(t *testing.T) {
	other := func(mark []byte) []byte {
		path := filepath.Join(t.TempDir(), "other.db")
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			if mark == nil {
				_, err := tx.CreateBucket([]byte("somebody else's"))
				return err
			}
			b, err := tx.CreateBucket([]byte(markBucket))
			if err != nil {
				return err
			}
			return b.Put([]byte(markKey), mark)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good, err := os.ReadFile(filled(t, 200))
	if err != nil {
		t.Fatal(err)
	}
	turned := bytes.Clone(good)
	turned[bytes.LastIndex(turned, []byte("192.0.2.77"))+9] ^= 1 // another address
	for name, data := range map[string][]byte{
		"text":           []byte("lifetime = \"30m\"\n" + strings.Repeat("# words\n", 4000)),
		"zeros":          make([]byte, 1<<16),
		"empty":          {},
		"foreign":        other(nil),
		"newer":          other([]byte{0, 0, 0, Version + 1}),
		"no version":     other([]byte("v1")),
		"one bit":        turned,
		"cut in a page":  good[:len(good)/3],
		"only the metas": good[:2*os.Getpagesize()],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, path)
			if !s.Fresh() || !strings.Contains(s.Aside(), ".damaged-20260102T030405Z") {
				t.Errorf("fresh %v, aside %q", s.Fresh(), s.Aside())
			}
			if got := all(t, s, "grants"); len(got) != 0 {
				t.Errorf("%d records of an unreadable file are believed", len(got))
			}
			s.Put("grants", "192.0.2.1", []byte("x"))
			shut(t, s)
			kept, err := os.ReadFile(path + ".damaged-20260102T030405Z")
			if err != nil || !bytes.Equal(kept, data) {
				t.Errorf("the file was not kept as it was: %v", err)
			}
			s = open(t, path)
			defer shut(t, s)
			if len(all(t, s, "grants")) != 1 {
				t.Error("the new file does not work")
			}
		})
	}
}

// No damage makes a wrong record, or ends the program.
func TestRandomDamageIsNeverBelieved(t *testing.T) {
	for _, merged := range []bool{false, true} {
		t.Run(fmt.Sprintf("merged %v", merged), func(t *testing.T) { damageAtRandom(t, merged) })
	}
}

func damageAtRandom(t *testing.T, merged bool) {
	t.Helper()
	filled := filled(t, 200)
	if merged {
		shut(t, open(t, filled))
	}
	good, err := os.ReadFile(filled)
	if err != nil {
		t.Fatal(err)
	}
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	random := rand.New(rand.NewPCG(6, 1))
	path := filepath.Join(t.TempDir(), "state.db")
	for round := range rounds {
		data := bytes.Clone(good)
		for range 1 + random.IntN(8) {
			at := random.IntN(len(data))
			n := min(1+random.IntN(64), len(data)-at)
			for i := range n {
				data[at+i] = byte(random.Uint32())
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, at.Add(time.Duration(round)*time.Second))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for k, v := range all(t, s, "grants") {
			if v != strings.Repeat("x", 40) || !strings.HasPrefix(k, "192.0.2.") {
				t.Errorf("round %d: record %q = %q", round, k, v)
			}
		}
		shut(t, s)
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
		}, "neither a file nor a folder"},
		{"folder", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, ""},
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
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
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
		if err := <-done; err != nil {
			t.Error(err)
		}
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
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Flush() }()
	for s.waits() {
		runtime.Gosched()
	}
	if st := s.Stats(); st.Pending != 1 || st.PendingBytes < 1000 {
		t.Errorf("%d changes of %d bytes are pending, want 1 of 1000", st.Pending, st.PendingBytes)
	}
	if err := errors.Join(slow.Rollback(), <-done); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Pending != 0 {
		t.Errorf("%d changes are pending after the write", st.Pending)
	}
	shut(t, s)
}

// waits says whether Flush has not taken what is pending yet.
func (s *Store) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending.n > 0
}

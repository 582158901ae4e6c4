package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Whatever is wrong with the file, the store begins empty and the
// file is kept.
func TestUnreadableFilesArePutAside(t *testing.T) {
	other := func(mark []byte) []byte {
		path := filepath.Join(t.TempDir(), "other.db")
		db, err := bbolt.Open(path, 0o600, nil)
		must(t, err)
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
		must(t, errors.Join(err, db.Close()))
		data, err := os.ReadFile(path)
		must(t, err)
		return data
	}
	good, err := os.ReadFile(filled(t, 200))
	must(t, err)
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
			must(t, os.WriteFile(path, data, 0o600))
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
	must(t, err)
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
		must(t, os.WriteFile(path, data, 0o600))
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

// A good file that cannot be opened for now is left as it is, and nothing begins without
// what it knows.
func TestUnopenedFileStays(t *testing.T) {
	for name, keep := range map[string]func(t *testing.T, path string) (release func()){
		"locked by another program": func(t *testing.T, path string) func() {
			f, err := os.Open(path)
			must(t, err)
			must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
			return func() { must(t, f.Close()) }
		},
		"no descriptor for it":         func(t *testing.T, _ string) func() { return scarceFiles(t, 2) },
		"no descriptor to look at it":  func(t *testing.T, _ string) func() { return scarceFiles(t, 3) },
		"no descriptor for what it is": func(t *testing.T, _ string) func() { return scarceFiles(t, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t, 20)
			release := keep(t, path)
			if s, err := Open(path, at, "denials"); err == nil {
				t.Errorf("it begins with %v: %s", all(t, s, "denials"), s.Aside())
				shut(t, s)
			}
			release()
			s, err := Open(path, at, "denials")
			must(t, err)
			defer shut(t, s)
			if s.Aside() != "" || s.Fresh() || len(all(t, s, "denials")) != 1 || len(all(t, s, "grants")) != 20 {
				t.Errorf("afterwards it holds %v and %v; %s", all(t, s, "grants"), all(t, s, "denials"), s.Aside())
			}
		})
	}
}

// Nor is a file damaged that can be opened and not read, as on a disk that is away.
func TestUnreadFileIsNotDamaged(t *testing.T) {
	folder := t.TempDir() // opens, and read(2) returns an error
	err := reading(folder, func(io.ReaderAt, *bbolt.Tx) error { return nil })
	if !errors.Is(err, errUnopened) || !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("it is %v", err)
	}
	bad := iotest.ErrReader(&os.PathError{Op: "read", Path: "state.db", Err: unix.EIO})
	if err := unread(io.MultiReader(strings.NewReader("its first page"), bad)); !errors.Is(err, errUnopened) {
		t.Errorf("of which a page is not read it is %v", err)
	}
}

// scarceFiles leaves the process n more descriptors.
func scarceFiles(t *testing.T, n int) (enough func()) {
	t.Helper()
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: before.Max}))
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		must(t, err)
		taken = append(taken, f)
	}
	for _, f := range taken[:n] {
		must(t, f.Close())
	}
	taken = taken[n:]
	enough = sync.OnceFunc(func() {
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
		for _, f := range taken {
			must(t, f.Close())
		}
	})
	t.Cleanup(enough)
	return enough
}

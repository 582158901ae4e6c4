package state

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// One bit that turns over, wherever: Open ends, and what was revoked stays revoked
// and what was denied denied, if anything is believed at all. (Of a damaged one of the
// two first pages the database would take the other, which is of a transaction before.)
func TestOneBitBringsNothingBack(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "state.db")
	s := open(t, path)
	for i := range 3 {
		s.Put("grants", fmt.Sprint("192.0.2.", i), []byte("granted"))
	}
	shut(t, s)
	s = open(t, path)
	s.Put("grants", "192.0.2.7", []byte("granted"))
	flush(t, s)
	s.Delete("grants", "192.0.2.7")
	flush(t, s)
	s.Delete("grants", "192.0.2.1")
	s.Put("denials", "192.0.2.1", []byte("for good"))
	shut(t, s)
	good, err := os.ReadFile(path)
	must(t, err)
	random := rand.New(rand.NewPCG(9, 1))
	turned := 0
	for at0 := 0; at0 < len(good); at0++ {
		if good[at0] == 0 && at0%os.Getpagesize() > 80 || testing.Short() && at0%17 > 0 {
			continue
		}
		turned++
		data := bytes.Clone(good)
		data[at0] ^= 1 << random.IntN(8)
		must(t, os.WriteFile(path, data, 0o600))
		s, err := Open(path, at.Add(time.Duration(turned)*time.Second))
		if err != nil {
			t.Fatalf("byte %d: %v", at0, err)
		}
		grants, denials := all(t, s, "grants"), all(t, s, "denials")
		if s.Aside() == "" && (len(grants) != 2 || grants["192.0.2.0"] == "" || grants["192.0.2.2"] == "" || len(denials) != 1) {
			t.Errorf("byte %d: %v, and denials %v", at0, grants, denials)
		}
		shut(t, s)
	}
	t.Logf("%d bits of %d bytes", turned, len(good))
}

// A tail that lacks a group is not believed: that group may have revoked something.
func TestMissingGroupsAreDamage(t *testing.T) {
	for missing := range 3 {
		path := filepath.Join(t.TempDir(), "state.db")
		s := open(t, path)
		for i := range 3 {
			s.Put("grants", fmt.Sprint("192.0.2.", i), []byte("x"))
			flush(t, s)
		}
		shut(t, s)
		db, err := bbolt.Open(path, 0o600, nil)
		must(t, err)
		err = db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(tailBucket))
			if missing > 0 {
				return b.DeleteBucket([]byte{0, 0, 0, 0, 0, 0, 0, byte(1 + missing)})
			}
			return errors.Join(b.DeleteBucket([]byte{7: 1}), b.DeleteBucket([]byte{7: 2}), b.DeleteBucket([]byte{7: 3}))
		})
		must(t, errors.Join(err, db.Close()))
		s = open(t, path)
		if s.Aside() == "" {
			t.Errorf("%d: a group is missing, and %v is believed", missing, all(t, s, "grants"))
		}
		shut(t, s)
	}
}

// While a merge goes on, and it may for seconds, what is put is written as ever; and a
// merge does not run after it.
func TestOthersWriteDuringAMerge(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	defer shut(t, s)
	s.Put("grants", "192.0.2.1", []byte("x"))
	flush(t, s)
	s.Put("grants", "192.0.2.2", []byte("x"))
	must(t, s.merge())
	if st := s.Stats(); st.Pending != 0 || st.Writes != 2 || tailed(t, s) != 1 {
		t.Errorf("%+v, and %d groups in the tail, want that of the later change", st, tailed(t, s))
	}
	if got := all(t, s, "grants"); len(got) != 2 || tailed(t, s) != 0 {
		t.Errorf("%v", got)
	}
}

func TestPendingIsBoundedInBytes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	defer shut(t, s)
	large := make([]byte, 1<<20)
	for i := range 100 {
		s.Put("journal", fmt.Sprint(i), large)
	}
	if st := s.Stats(); st.Lost == 0 || uint64(st.Pending)+st.Lost != 100 || len(s.pending.text) > maxPendingBytes+1<<10 {
		t.Errorf("%+v and %d bytes, of 100 changes of a megabyte", st, len(s.pending.text))
	}
}

// writer is what a killed program did: a group after the other, in a known manner.
type writer struct {
	random *rand.Rand
	holds  map[string]string
}

func newWriter() *writer { return &writer{rand.New(rand.NewPCG(10, 1)), make(map[string]string)} }

// group makes the changes of the next one.
func (w *writer) group(n int, put func(key, value string), del func(key string)) {
	for range 1 + w.random.IntN(30) {
		key := fmt.Sprint("192.0.2.", w.random.IntN(100))
		if w.random.IntN(3) == 0 {
			delete(w.holds, key)
			del(key)
		} else {
			w.holds[key] = fmt.Sprint("group ", n)
			put(key, w.holds[key])
		}
	}
	w.holds["group"] = strconv.Itoa(n)
	put("group", w.holds["group"])
}

// A program that is killed at any moment, also while it merges, leaves what some
// moment held, and no less than what was said to be written.
func TestKilledAtAnyMoment(t *testing.T) {
	if path := os.Getenv("RELAYGATE_TEST_KILLED"); path != "" {
		beKilled(t, path)
	}
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	random := rand.New(rand.NewPCG(11, 1))
	for round := range rounds {
		path := filepath.Join(t.TempDir(), "state.db")
		c := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		c.Env = append(os.Environ(), "RELAYGATE_TEST_KILLED="+path)
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		must(t, err)
		written, most := 0, 1+random.IntN(300)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
			if err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
			if written = n; n == most {
				err = c.Process.Kill() // in the middle of a later group, or of a merge
			}
			must(t, err)
		}
		_ = c.Wait() // it was killed
		s := open(t, path)
		got := all(t, s, "grants")
		shut(t, s)
		last, err := strconv.Atoi(got["group"])
		if err != nil || last < written || s.Aside() != "" {
			t.Fatalf("round %d: group %q is the last, %d was written; %s", round, got["group"], written, s.Aside())
		}
		w := newWriter()
		for n := range last {
			w.group(n+1, func(string, string) {}, func(string) {})
		}
		if !maps.Equal(got, w.holds) {
			t.Errorf("round %d, group %d: %v\nwant %v", round, last, got, w.holds)
		}
	}
}

func beKilled(t *testing.T, path string) {
	t.Helper()
	s := open(t, path)
	w := newWriter()
	for n := 1; ; n++ {
		w.group(n, func(k, v string) { s.Put("grants", k, []byte(v)) }, func(k string) { s.Delete("grants", k) })
		flush(t, s)
		fmt.Println(n)
		if n%7 == 0 {
			must(t, s.merge())
		}
	}
}

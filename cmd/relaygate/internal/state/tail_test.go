package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// tailed counts the groups of the tail.
func tailed(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.database().View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(tailBucket)); b != nil {
			return b.ForEachBucket(func([]byte) error { n++; return nil })
		}
		return nil
	})
	must(t, err)
	return n
}

func flush(t *testing.T, s *Store) {
	t.Helper()
	must(t, s.Flush())
}

// Whatever is put, deleted, written, merged and opened again in whatever order: the
// last change counts.
func TestTailIsAsIfEachChangeWereInItsPlace(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 1))
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	want := make(map[string]string)
	for i := range 4000 {
		key := fmt.Sprint("192.0.2.", random.IntN(60))
		switch random.IntN(40) {
		case 0:
			flush(t, s)
		case 1:
			must(t, errors.Join(s.Flush(), s.merge()))
		case 2:
			shut(t, s)
			s = open(t, path)
		case 3, 4, 5, 6, 7, 8:
			s.Delete("grants", key)
			delete(want, key)
		default:
			value := fmt.Sprint("value ", i)
			if i%7 == 0 {
				value = "" // no value is not deleted
			}
			s.Put("grants", key, []byte(value))
			want[key] = value
		}
		if i%200 == 0 {
			flush(t, s)
			if got := all(t, s, "grants"); !maps.Equal(got, want) {
				t.Fatalf("after %d changes: %v\nwant %v", i, got, want)
			}
		}
	}
	shut(t, s)
}

// A merge that broke off, as in a crash, has done no harm.
func TestMergeThatBreaksOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	s.Put("grants", "a", []byte("old"))
	s.Put("grants", "b", []byte("old"))
	flush(t, s)
	s.Put("grants", "a", []byte("new"))
	s.Delete("grants", "b")
	flush(t, s)
	err := s.database().Update(func(tx *bbolt.Tx) error {
		return apply(tx, []change{{bucket: []byte("grants"), key: []byte("b"), value: []byte("old")}})
	})
	if err != nil || tailed(t, s) != 2 {
		t.Fatalf("%d groups, %v", tailed(t, s), err)
	}
	shut(t, s)
	s = open(t, path)
	defer shut(t, s)
	if got := all(t, s, "grants"); len(got) != 1 || got["a"] != "new" || tailed(t, s) != 0 {
		t.Errorf("%v, and %d groups of changes", got, tailed(t, s))
	}
}

func TestTailIsMergedInParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	value := bytes.Repeat([]byte("x"), 1<<20)
	for round := range 20 {
		for i := range 3 {
			s.Put("grants", fmt.Sprint(i), append(value, fmt.Sprint(round)...))
		}
		flush(t, s)
	}
	if tailed(t, s) != 20 || s.tail < 20*3<<20 {
		t.Fatalf("%d groups, %d bytes", tailed(t, s), s.tail)
	}
	check := func() {
		t.Helper()
		got := all(t, s, "grants")
		for i := range 3 {
			if v := got[fmt.Sprint(i)]; v != string(value)+"19" {
				t.Errorf("%d bytes", len(v))
			}
		}
		if tailed(t, s) != 0 || s.tail != 0 {
			t.Errorf("%d groups, %d bytes are left", tailed(t, s), s.tail)
		}
	}
	shut(t, s)
	before, err := os.ReadFile(path)
	must(t, err)
	s = open(t, path) // copies
	check()
	shut(t, s)
	must(t, os.WriteFile(path, before, 0o600))
	s = open(t, path)
	defer shut(t, s)
	for i := range 3 {
		s.Delete("grants", fmt.Sprint(i))
	}
	flush(t, s)
	if got := all(t, s, "grants"); len(got) != 0 { // merges
		t.Errorf("%d records are left", len(got))
	}
}

func TestShortGroupsAreDamage(t *testing.T) {
	var g group
	g.add(id{"grants", "192.0.2.1"}, []byte("value"), false)
	g.add(id{"grants", "192.0.2.2"}, nil, true)
	whole := g.text[sumBytes:]
	if list, err := changes(nil, whole); err != nil || len(list) != 2 || list[1].value != nil {
		t.Fatalf("%v, %v", list, err)
	}
	for n := range whole {
		if list, err := changes(nil, whole[:n]); err == nil && len(list) == 2 {
			t.Errorf("%d of %d bytes are taken for all", n, len(whole))
		} else if err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("error %v", err)
		}
	}
}

func FuzzChanges(f *testing.F) {
	f.Add([]byte("\x06grants\x01a\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := changes(nil, text)
		size := 0
		for _, c := range list {
			size += len(c.bucket) + len(c.key) + len(c.value)
		}
		if err == nil && size > len(text) {
			t.Errorf("%d bytes hold %d", len(text), size)
		}
	})
}

// BenchmarkWrite is what a record costs: when it is put and written, and when the
// tail is merged into a table of 100,000.
func BenchmarkWrite(b *testing.B) {
	const grants, batch = 100_000, 2000
	s, err := Open(filepath.Join(b.TempDir(), "state.db"), at)
	must(b, err)
	defer s.Close()
	value := make([]byte, 150)
	random := rand.New(rand.NewPCG(8, 1))
	put := func(n int) {
		for range n {
			i := random.IntN(grants)
			s.Put("grants", fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), value)
		}
	}
	write := func(n int) {
		for ; n > 0; n -= batch {
			put(min(n, batch))
			must(b, s.Flush())
		}
	}
	write(2 * grants)
	must(b, s.merge())
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		write(b.N)
	})
	must(b, s.merge())
	b.Run("merge", func(b *testing.B) {
		b.ReportAllocs()
		n := max(b.N, 50_000)
		write(n)
		b.ResetTimer()
		must(b, s.merge())
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
	})
}

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// peeked is every record of a bucket, of a copy of the file at path.
func peeked(path, bucket string) (got map[string]string, kept time.Time, err error) {
	c, err := Peek(path)
	if err != nil {
		return nil, kept, err
	}
	got = make(map[string]string)
	err = c.Each(bucket, func(k string, v []byte) error { got[k] = string(v); return nil })
	return got, c.Kept(), errors.Join(err, c.Close())
}

// folder is the names and sizes of what is in the folder of path.
func folder(t *testing.T, path string) map[string]int64 {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	sizes := make(map[string]int64)
	for _, f := range list {
		info, err := f.Info()
		must(t, err)
		sizes[f.Name()] = info.Size()
	}
	return sizes
}

// A file is read as it is, also what of it is in the tail still, while its writer has it
// open and locked, and after it: and nothing of it changes.
func TestPeekReadsAndChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	writer := open(t, path)
	for i := range 2000 {
		writer.Put("grants", fmt.Sprint("192.0.2.", i), []byte("x"))
	}
	flush(t, writer)
	must(t, writer.merge())
	writer.Delete("grants", "192.0.2.7")
	writer.Put("grants", "192.0.2.8", []byte("renewed"))
	flush(t, writer)
	check := func(when string) {
		t.Helper()
		before, err := os.ReadFile(path)
		must(t, err)
		files := folder(t, path)
		got, kept, err := peeked(path, "grants")
		must(t, err)
		if len(got) != 1999 || got["192.0.2.7"] != "" || got["192.0.2.8"] != "renewed" {
			t.Errorf("%s: %d records", when, len(got))
		}
		if age := time.Since(kept); age < 0 || age > time.Minute {
			t.Errorf("%s: it was written last %s ago", when, age)
		}
		after, err := os.ReadFile(path)
		if err != nil || string(before) != string(after) || !maps.Equal(files, folder(t, path)) {
			t.Errorf("%s: something changed (%v): %v", when, err, folder(t, path))
		}
	}
	check("while its writer has it open")
	shut(t, writer)
	check("after its writer")
	shut(t, open(t, path))
}

// Who reads keeps no daemon from starting, at no moment.
func TestPeekKeepsNobodyAway(t *testing.T) {
	path := filled(t, 3)
	c, err := Peek(path)
	must(t, err)
	defer func() {
		must(t, c.Close())
	}()
	writer := open(t, path)
	defer shut(t, writer)
	if writer.Aside() != "" || len(all(t, writer, "grants")) != 3 {
		t.Errorf("the writer begins with %v; %s", all(t, writer, "grants"), writer.Aside())
	}
}

// What is copied while it is written is what one moment held: here each group writes
// the same number into many records.
func TestPeekBesideAWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	writer := open(t, path)
	large := strings.Repeat("x", 8000) // so that copying takes a while
	put := func(n int) {
		for i := range 200 {
			writer.Put("grants", fmt.Sprint("192.0.2.", i), fmt.Append(nil, n, large))
		}
		flush(t, writer)
	}
	put(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			put(n)
			if n%5 == 0 {
				must(t, writer.merge())
			}
		}
	}()
	read := 0
	for range 20 {
		got, _, err := peeked(path, "grants")
		if err != nil {
			if !strings.Contains(err.Error(), "being written all the time") {
				t.Error(err)
			}
			continue
		}
		read++
		for key, value := range got {
			if len(got) != 200 || value != got["192.0.2.0"] {
				t.Fatalf("%d records, and %s is of group %.8s, the first of %.8s", len(got), key, value, got["192.0.2.0"])
			}
		}
	}
	close(stop)
	<-stopped
	shut(t, writer)
	t.Logf("%d of 20 were read", read)
}

func TestPeekRefuses(t *testing.T) {
	newer := func(t *testing.T, path string) {
		db, err := bbolt.Open(path, 0o600, nil)
		if err == nil {
			err = db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte(markBucket)).Put([]byte(markKey), []byte{0, 0, 0, Version + 1})
			})
		}
		must(t, errors.Join(err, db.Close()))
	}
	change := func(do func(data []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, do(data), 0o600)
			}
			must(t, err)
		}
	}
	for name, tt := range map[string]struct {
		harm func(t *testing.T, path string)
		want string
	}{
		"missing":         {func(t *testing.T, path string) { must(t, os.Remove(path)) }, "no such file"},
		"no folder":       {func(t *testing.T, path string) { must(t, os.RemoveAll(filepath.Dir(path))) }, "no such file"},
		"empty":           {change(func([]byte) []byte { return nil }), "it is empty"},
		"cut":             {change(func(b []byte) []byte { return b[:5000] }), "damaged"},
		"zeroes":          {change(func(b []byte) []byte { clear(b); return b }), "damaged"},
		"text":            {change(func([]byte) []byte { return []byte(strings.Repeat("x\n", 10000)) }), "damaged"},
		"one byte":        {change(func(b []byte) []byte { b[strings.Index(string(b), "for good")] ^= 1; return b }), "checksum"},
		"a newer version": {newer, "of version 4, and this relaygate reads version 3"},
		"a folder":        {func(t *testing.T, path string) { must(t, errors.Join(os.Remove(path), os.Mkdir(path, 0o700))) }, "no regular file"},
		"a pipe":          {func(t *testing.T, path string) { must(t, errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))) }, "no regular file"},
		"a link": {func(t *testing.T, path string) {
			must(t, errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)))
		}, "no regular file"},
		"others may write": {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o666)) }, "chmod"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t, 3)
			tt.harm(t, path)
			_, _, err := peeked(path, "denials")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if missing := tt.want == "no such file"; missing && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %v is not fs.ErrNotExist", err)
			}
		})
	}
}

package state

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Of a file that is not believed, what closes holds all the same, and nothing that opens.
func TestWhatClosesIsRescued(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	s.Put("denials", "198.51.100.1", []byte("for good"))
	s.Put("denials", "198.51.100.2", []byte("lifted later"))
	s.Put("grants", "192.0.2.1", []byte("granted first"))
	shut(t, s)
	s = open(t, path) // which puts all in their places
	for _, put := range [][2]string{
		{"denials", "198.51.100.3"}, {"grants", "192.0.2.3"}, {"pause", "since then"},
	} {
		s.Put(put[0], put[1], []byte("put in the tail"))
		flush(t, s)
	}
	for _, bucket := range []string{"grants", "other", "denials"} { // in one group
		s.Put(bucket, "198.51.100.2", []byte("put again"))
	}
	flush(t, s)
	s.Delete("denials", "198.51.100.2")
	shut(t, s)
	good, err := os.ReadFile(path)
	must(t, err)
	turn := func(record string) []byte {
		turned := []byte(record)
		turned[0] ^= 1
		return bytes.ReplaceAll(good, []byte(record), turned) // one is in a page that is free
	}
	version := func(v byte) []byte { return append([]byte(markKey), 0, 0, 0, v) }
	first := func(age int) []byte { // of the first two pages the newest, or the one before
		const number = pageHeader + beginBytes - 8 // of its transaction
		at := []int{number, os.Getpagesize() + number}
		if binary.NativeEndian.Uint64(good[at[0]:]) < binary.NativeEndian.Uint64(good[at[1]:]) {
			slices.Reverse(at)
		}
		turned := bytes.Clone(good)
		turned[at[age]] ^= 1
		return turned
	}
	for _, tt := range []struct {
		name    string
		data    []byte
		denials string
		pauses  int
	}{
		{"newer", bytes.ReplaceAll(good, version(Version), version(Version+1)), "198.51.100.1 198.51.100.3", 1},
		{"a grant", turn("granted first"), "198.51.100.1 198.51.100.3", 1},
		{"a group", turn("192.0.2.3"), "198.51.100.1 198.51.100.3", 1},
		{"a denial", turn("for good"), "198.51.100.3", 1},
		{"a denial's group", turn("198.51.100.3"), "198.51.100.1", 1},
		{"the pause", turn("since then"), "198.51.100.1 198.51.100.3", 0},
		{"the first page", first(0), "198.51.100.1 198.51.100.2 198.51.100.3", 1},
		{"the first page before", first(1), "198.51.100.1 198.51.100.3", 1},
		{"cut", good[:3*os.Getpagesize()], "", 0},
		{"text", []byte(strings.Repeat("words\n", 10_000)), "", 0},
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		must(t, os.WriteFile(path, tt.data, 0o600))
		s, err := Open(path, at, "denials", "pause")
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for range 2 { // it is kept
			var denied []string
			for _, key := range []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"} {
				if _, ok := all(t, s, "denials")[key]; ok {
					denied = append(denied, key)
				}
			}
			if got := strings.Join(denied, " "); got != tt.denials || len(all(t, s, "pause")) != tt.pauses || len(all(t, s, "grants")) > 0 {
				t.Errorf("%s: denied is %q, want %q; pauses %v, grants %v", tt.name, got, tt.denials, all(t, s, "pause"), all(t, s, "grants"))
			}
			rescued := tt.denials != "" || tt.pauses > 0
			if aside := s.Aside(); aside != "" && strings.Contains(aside, "of denials and pause") != rescued || s.Fresh() != (aside != "") {
				t.Errorf("%s: %q, fresh %v", tt.name, aside, s.Fresh())
			}
			shut(t, s)
			s = open(t, path)
		}
		shut(t, s)
	}
}

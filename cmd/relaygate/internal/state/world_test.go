package state

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, at)
	must(t, err)
	return s
}

func shut(t *testing.T, s *Store) {
	t.Helper()
	must(t, s.Close())
}

// all is every record of a bucket.
func all(t *testing.T, s *Store, bucket string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := s.Each(bucket, func(k string, v []byte) error { got[k] = string(v); return nil })
	must(t, err)
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

// waits says whether Flush has not taken what is pending yet.
func (s *Store) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending.n > 0
}

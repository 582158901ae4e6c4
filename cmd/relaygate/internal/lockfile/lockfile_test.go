package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// The holder of a lock is told, and asking keeps nobody from taking it.
func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if got := Holder(path); got != "" {
		t.Errorf("process %s holds a file that is not there", got)
	}
	lock, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := Holder(path); got != strconv.Itoa(os.Getpid()) {
		t.Errorf("process %q holds the lock, want this one", got)
	}
	if got := Holder(path + "2"); got != "" {
		t.Errorf("process %s holds another file", got)
	}
	if _, err := Take(path); !errors.As(err, new(*HeldError)) {
		t.Errorf("error %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if got := Holder(path); got != "" { // its number is there still
		t.Errorf("process %s holds a lock that was given up", got)
	}
	lock, err = Take(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = lock.Close()
}

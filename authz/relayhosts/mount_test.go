package relayhosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReplaceBindMount writes to a file that really is a mount point, as
// container platforms make them.
func TestReplaceBindMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount in a namespace of its own")
	}
	dir := t.TempDir()
	outside, path := filepath.Join(dir, "outside"), filepath.Join(dir, "relayhosts")
	put(t, outside, oldText)
	put(t, path, "hidden")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its mounts
		done <- errors.Join(
			said("unshare", unix.Unshare(unix.CLONE_NEWNS)),
			said("make private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")),
			said("bind", unix.Mount(outside, path, "", unix.MS_BIND, "")),
			Replace(path, []byte(newText)),
		)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	holds(t, outside, newText)
	holds(t, path, "hidden")
	if got := names(t, dir); got != "outside relayhosts" {
		t.Errorf("the directory holds %s", got)
	}
}

func said(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

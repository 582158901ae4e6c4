package relayhosts

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// TestReplaceBindMount writes to a file that really is a mount point, as
// container platforms make them.
func TestReplaceBindMount(t *testing.T) {
	bpftest.RequireRoot(t) // to mount in a namespace of its own
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
	must(t, <-done)
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

// On a full disk no line of a grant that is over stays: there is room for the new
// list in the place of the old one, or the file is empty.
func TestReplaceOnAFullDisk(t *testing.T) {
	bpftest.RequireRoot(t) // to mount in a namespace of its own
	dir := t.TempDir()
	path := filepath.Join(dir, "relayhosts")
	long := bytes.Repeat([]byte("203.0.113.1\n"), 1000)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its mounts
		done <- func() error {
			err := errors.Join(
				said("unshare", unix.Unshare(unix.CLONE_NEWNS)),
				said("make private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")),
				said("mount", unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k")),
				said("write", os.WriteFile(path, long[:4096], 0o644)))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "filler"), long, 0o644); err != nil && !errors.Is(err, unix.ENOSPC) {
				return err
			}
			if err := Replace(path, []byte(newText)); err != nil {
				return err
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != newText {
				return fmt.Errorf("it holds %q, %w, want %q", got, err, newText)
			}
			if err := Replace(path, long); !errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("a list without room: %w", err)
			}
			if got, err := os.ReadFile(path); err != nil || len(got) > 0 {
				return fmt.Errorf("it holds %q, %w, want nothing", got, err)
			}
			return nil
		}()
	}()
	must(t, <-done)
}

package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// hang puts a file system at the folder that answers nothing until the test ends.
func hang(t *testing.T, folder string) {
	t.Helper()
	bpftest.RequireRoot(t)
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if os.Getenv("CI") == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)) {
		t.Skip("this kernel has no FUSE (fuse(4))")
	}
	must(t, err)
	must(t, unix.Mount("hang", folder, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)))
	t.Cleanup(func() {
		must(t, unix.Close(device)) // whoever waits for it hears so
		must(t, unix.Unmount(folder, unix.MNT_DETACH))
	})
}

// TestFileSystemThatHangs: nobody waits for a list on a file system that hangs, and what is
// told without it says so.
func TestFileSystemThatHangs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	d := leave(t, "", now)
	d.Config.Relayhosts = filepath.Join(t.TempDir(), "relayhosts")
	hang(t, filepath.Dir(d.Config.Relayhosts))
	const words = "its file system hangs"
	s, err := d.Status(now)
	must(t, err)
	if files := strings.Join(s.Offline.Files, "\n"); strings.Count(files, words) != 1 {
		t.Errorf("status tells of the files: %s", files)
	}
	_, about, err := d.Grants(now)
	must(t, err)
	if files := strings.Join(about.Files, "\n"); strings.Count(files, words) != 1 {
		t.Errorf("list tells of the files: %s", files)
	}
	why, err := d.Why(netip.MustParseAddr("192.0.2.7"), now)
	must(t, err)
	if files := strings.Join(why.Offline.Files, "\n"); strings.Count(files, words) != 2 {
		t.Errorf("why tells of the files: %s", files)
	}
}

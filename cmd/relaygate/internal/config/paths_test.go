package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file system that may hang is not asked where a path leads, whatever leads to it.
func TestLeadsTo(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	in := func(path string) string { return dir + "/" + path }
	for _, err := range []error{
		os.Mkdir(in("real"), 0o700), os.Mkdir(in("mnt"), 0o700), os.Symlink("real", in("folder")), os.Mkdir(in("real/below"), 0o700), os.Symlink("real/below", in("deep")), os.Symlink(in("real"), in("mnt/link")),
		os.Symlink("../mnt/./link/file", in("real/far")), os.Symlink("round", in("round")),
	} {
		must(t, err)
	}
	for path, want := range map[string]string{
		"/":                  "/",
		"/nothing/here":      "/nothing/here",
		in("folder/x"):       in("real/x"),
		in("mnt/../y"):       in("y"),
		in("deep/../y"):      in("real/y"), // as path_resolution(7) has it
		in("mnt/link/file"):  in("mnt/link/file"),
		in("folder/far"):     in("mnt/link/file"),
		in("round"):          in("round"),
		in("real/../folder"): in("real"),
	} {
		if got := leadsTo(path, map[string]bool{in("mnt"): true, "/": true}); got != want {
			t.Errorf("%s leads to %s, want %s", path, got, want)
		}
	}
	begin := time.Now()
	if got, far := leadsTo(strings.Repeat("/a", 1<<20), nil), 1<<21; len(got) != far || time.Since(begin) > 20*time.Second {
		t.Errorf("%d bytes are left of %d, %v later", len(got), far, time.Since(begin))
	}
	if got := leadsTo(in("mnt/link/file"), nil); got != in("real/file") {
		t.Errorf("without mounts it leads to %s", got)
	}
}

func TestMayHang(t *testing.T) {
	got := mayHang(`27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
41 27 0:40 / /srv/my\040mail rw,relatime shared:3 - nfs4 server:/mail rw
42 27 0:41 / /tmp rw - tmpfs tmpfs rw
43 27 0:42 / /srv/over rw - nfs4 server:/x rw
44 43 0:43 / /srv/over rw - xfs /dev/vdb rw
45 27 0:44 / /mnt rw master:1 - fuse.sshfs host: rw
`)
	want := map[string]bool{"/": false, "/srv/my mail": true, "/tmp": false, "/srv/over": false, "/mnt": true}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	now, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err == nil && !mayHang(string(now))["/proc"] {
		t.Error("/proc is not seen")
	}
}

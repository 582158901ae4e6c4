package relayhosts

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	oldText = "203.0.113.1\n"
	newText = "203.0.113.2\n203.0.113.3\n"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestReplaceNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	must(t, Replace(path, nil))
	holds(t, path, "")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != defaultMode {
		t.Errorf("mode %v, %v; want %v", info.Mode(), err, defaultMode)
	}
	if got := names(t, filepath.Dir(path)); got != "relayhosts" {
		t.Errorf("the directory holds %s", got)
	}
}

// Each name of a file says who may relay now, as that in a mail server's chroot: one
// that was left behind would open what is closed for ever.
func TestReplaceReachesEveryName(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "chroot")
	put(t, path, oldText)
	must(t, os.Link(path, other))
	for _, text := range []string{newText, ""} {
		must(t, Replace(path, []byte(text)))
		holds(t, path, text)
		holds(t, other, text)
	}
}

func TestReplaceKeepsModeAndOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	put(t, path, oldText)
	must(t, os.Chmod(path, 0o640))
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 12345, 23456
		must(t, os.Chown(path, uid, gid))
	}
	must(t, Replace(path, []byte(newText)))
	holds(t, path, newText)
	info, err := os.Stat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode() != 0o640 || int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("%v %d:%d, want -rw-r----- %d:%d", info.Mode(), st.Uid, st.Gid, uid, gid)
	}
}

// A mail server may read the file by a list of rights (acl(5)).
func TestReplaceKeepsRights(t *testing.T) {
	const list = "system.posix_acl_access"
	const owner, user, group, mask, other = 1, 2, 4, 16, 32 // of linux/posix_acl.h
	const read, readWrite, nobody = 4, 6, 1<<32 - 1
	acl := binary.LittleEndian.AppendUint32(nil, 2) // struct posix_acl_xattr_header
	entry := func(tag, rights uint16, id uint32) {
		acl = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(acl, tag), rights)
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	entry(owner, readWrite, nobody)
	entry(user, read, 12345)
	entry(group, 0, nobody)
	entry(mask, read, nobody)
	entry(other, 0, nobody)
	path := filepath.Join(t.TempDir(), "relayhosts")
	put(t, path, oldText)
	if err := unix.Setxattr(path, list, acl, 0); errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system of temporary files has no lists of rights")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{newText, oldText} {
		must(t, Replace(path, []byte(text)))
		holds(t, path, text)
		got := make([]byte, 100)
		if n, err := unix.Getxattr(path, list, got); err != nil || !bytes.Equal(got[:max(n, 0)], acl) {
			t.Errorf("the rights are % x, %v; want % x", got[:max(n, 0)], err, acl)
		}
	}
}

func TestReplaceFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"etc", "var"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	path := filepath.Join(dir, "etc", "relayhosts")
	for link, to := range map[string]string{path: "recent", filepath.Join(dir, "etc", "recent"): "../var/list"} {
		must(t, os.Symlink(to, link))
	}
	for _, text := range []string{newText, oldText} { // the first time it dangles
		must(t, Replace(path, []byte(text)))
		holds(t, filepath.Join(dir, "var", "list"), text)
	}
	for link, want := range map[string]string{path: "recent", filepath.Join(dir, "etc", "recent"): "../var/list"} {
		if got, err := os.Readlink(link); err != nil || got != want {
			t.Errorf("the link %s is %q, %v; want %q", link, got, err, want)
		}
	}
}

func TestReplaceErrors(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Mkdir(path("directory"), 0o755), unix.Mkfifo(path("pipe"), 0o644),
		os.Symlink("loop2", path("loop")), os.Symlink("loop", path("loop2"))); err != nil {
		t.Fatal(err)
	}
	put(t, path("file"), oldText)
	for name, want := range map[string]string{
		"directory":       "not a regular file",
		"pipe":            "not a regular file",
		"loop":            unix.ELOOP.Error(),
		"missing/file":    "its directory must exist",
		"file/relayhosts": unix.ENOTDIR.Error(),
	} {
		err := Replace(path(name), []byte(newText))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path(name)) {
			t.Errorf("Replace(%s) = %v, want %q", name, err, want)
		}
	}
	holds(t, path("file"), oldText)
}

func TestReplaceWritesThroughNoPlantedLink(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "relayhosts"), filepath.Join(dir, "victim")
	put(t, path, oldText)
	put(t, victim, "precious")
	must(t, os.Symlink(victim, filepath.Join(dir, ".relayhosts"+suffix)))
	must(t, Replace(path, []byte(newText)))
	holds(t, victim, "precious")
	holds(t, path, newText)
}

var errFault = errors.New("fault")

// TestReplaceKilled stops at each step, once as by an error and once as by a
// kill: the file is the old or the new one, and the next run repairs the rest.
func TestReplaceKilled(t *testing.T) {
	for _, at := range []step{stepCreate, stepWrite, stepSync, stepRename, stepSyncDir} {
		for _, killed := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "relayhosts")
			put(t, path, oldText)
			err := func() (err error) {
				defer func() {
					if recover() != nil {
						err = errFault
					}
				}()
				return replace(path, []byte(newText), defaultMode, func(s step) error {
					if s != at {
						return nil
					}
					if killed {
						panic(s)
					}
					return errFault
				})
			}()
			if !errors.Is(err, errFault) {
				t.Errorf("%s: error %v", at, err)
			}
			want := oldText
			if at == stepSyncDir {
				want = newText
			}
			holds(t, path, want)
			if got := names(t, filepath.Dir(path)); !killed && got != "relayhosts" {
				t.Errorf("%s: the directory holds %s", at, got)
			}
			if err := Replace(path, []byte(newText)); err != nil {
				t.Errorf("%s: the next run: %v", at, err)
			}
			holds(t, path, newText)
			if got := names(t, filepath.Dir(path)); got != "relayhosts" {
				t.Errorf("%s: after the next run the directory holds %s", at, got)
			}
		}
	}
}

func TestReplaceInPlace(t *testing.T) {
	for name, cause := range map[string]error{
		"mount point": unix.EBUSY, "read-only directory": unix.EROFS,
		"no permission": unix.EACCES, "owner": unix.EPERM, "disk that fails": unix.EIO,
	} {
		for _, length := range []int{0, 1, 5000} {
			path := filepath.Join(t.TempDir(), "relayhosts")
			put(t, path, oldText)
			before, _ := os.Stat(path)
			data := bytes.Repeat([]byte(newText), length)
			err := replace(path, data, defaultMode, func(s step) error {
				if s == stepRename {
					return &fs.PathError{Op: "rename", Path: path, Err: cause}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			holds(t, path, string(data))
			if after, _ := os.Stat(path); !os.SameFile(before, after) {
				t.Errorf("%s: it is another file", name)
			}
			if got := names(t, filepath.Dir(path)); got != "relayhosts" {
				t.Errorf("%s: the directory holds %s", name, got)
			}
		}
	}
}

func TestReplaceInPlaceStopped(t *testing.T) {
	for at, want := range map[step]string{stepTruncate: oldText, stepInPlace: ""} {
		path := filepath.Join(t.TempDir(), "relayhosts")
		put(t, path, oldText)
		err := replace(path, []byte(newText), defaultMode, func(s step) error {
			if s == stepRename {
				return unix.EBUSY
			}
			if s == at {
				return errFault
			}
			return nil
		})
		if !errors.Is(err, errFault) {
			t.Errorf("%s: error %v", at, err)
		}
		holds(t, path, want)
	}
}

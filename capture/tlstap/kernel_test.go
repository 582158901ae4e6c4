package tlstap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// TestLiveLibraries maps libraries in real processes.
func TestLiveLibraries(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, s *server, dir string)
	}{
		{"before it listens", func(t *testing.T, s *server, dir string) {
			s.say("map %s/libssl.so.3", dir)
			s.say("listen 127.0.0.1:%d", livePort)
		}},
		{"late", func(t *testing.T, s *server, dir string) {
			s.say("listen 127.0.0.1:%d", livePort)
			s.say("map %s/libssl.so.3", dir)
		}},
		{"in a child", func(t *testing.T, s *server, dir string) {
			s.say("listen 127.0.0.1:%d", livePort)
			s.say("fork")
			s.say("map %s/libssl.so.3", dir)
		}},
		{"in a chroot", func(t *testing.T, s *server, dir string) {
			s.say("listen 127.0.0.1:%d", livePort)
			s.say("chroot %s", dir)
			s.say("map /libssl.so.3")
		}},
		{"deleted", func(t *testing.T, s *server, dir string) {
			s.say("map %s/libssl.so.3", dir)
			must(t, os.Remove(filepath.Join(dir, "libssl.so.3")))
			s.say("listen 127.0.0.1:%d", livePort)
		}},
		{"replaced", func(t *testing.T, s *server, dir string) {
			path := filepath.Join(dir, "libssl.so.3")
			s.say("map %s", path)
			next := filepath.Join(dir, "next")
			must(t, errors.Join(os.WriteFile(next, []byte("something else"), 0o644), os.Rename(next, path)))
			s.say("listen 127.0.0.1:%d", livePort)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ns := bpftest.Namespace(t)
			tap := &fakeTap{}
			finder := follow(t, trusted(t, ns), tap)
			dir := t.TempDir()
			path := filepath.Join(dir, "libssl.so.3")
			must(t, os.WriteFile(path, crafted{symbols: openSSL}.bytes(t), 0o644))
			want := inode(t, path)
			s := startServer(t, ns)
			test.do(t, s, dir)
			wait(t, "the library is attached", func() bool { return slices.Contains(tap.inodes(), want) })
			wait(t, "the server is seen", func() bool {
				servers := finder.Servers()
				return len(servers) == 1 && servers[0].Seen() && servers[0].PID == s.cmd.Process.Pid
			})
			s.end()
			wait(t, "the server is gone", func() bool { return len(finder.Servers()) == 0 && len(tap.heads()) == 0 })
		})
	}
}

// TestLiveUpgrade replaces a library under a server, whose next process maps the
// new one.
func TestLiveUpgrade(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := &fakeTap{}
	finder := follow(t, trusted(t, ns), tap)
	w := newWorld(t)
	path, next := w.library("libssl.so.3", openSSL...), w.library("libssl.so.3", openSSL...)
	want := []uint64{inode(t, path), inode(t, next)}
	slices.Sort(want)
	s := startServer(t, ns)
	s.say("listen 127.0.0.1:%d", livePort)
	s.say("map %s", path)
	wait(t, "the library is attached", func() bool { return slices.Contains(tap.inodes(), inode(t, path)) })
	must(t, os.Rename(next, path))
	s.say("fork")
	s.say("map %s", path)
	wait(t, "both are attached", func() bool { return slices.Equal(tap.inodes(), want) })
	wait(t, "the server is seen", func() bool {
		servers := finder.Servers()
		return len(servers) == 1 && servers[0].Seen() && len(servers[0].Libraries) == 2
	})
	s.end()
}

// TestLiveOverwritten writes another library into the file of one that a server maps,
// and its next process maps that.
func TestLiveOverwritten(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := &fakeTap{}
	finder := follow(t, trusted(t, ns), tap)
	path := newWorld(t).library("libssl.so.3", openSSL...)
	s := startServer(t, ns)
	s.say("listen 127.0.0.1:%d", livePort)
	s.say("map %s", path)
	reads := func() []uint64 { return tap.offsets(inode(t, path), "SSL_read") }
	wait(t, "the library is attached", func() bool { return slices.Equal(reads(), []uint64{codeOffset}) })

	moved := slices.Clone(openSSL)
	for i := range moved {
		moved[i].value += 0x40
	}
	must(t, os.WriteFile(path, crafted{symbols: moved}.bytes(t), 0o644))
	s.say("fork")
	s.say("map %s", path)
	wait(t, "the functions are watched where they are now", func() bool { return slices.Equal(reads(), []uint64{codeOffset + 0x40}) })
	wait(t, "the server is seen", func() bool {
		servers := finder.Servers()
		return len(servers) == 1 && servers[0].Seen() && len(servers[0].Libraries) == 1
	})
	s.end()
}

// mount mounts a file system until the test ends.
func mount(t *testing.T, kind, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", kind, err)
		}
	})
	return dir
}

// TestOneInodeTwice has files with one inode number, size and time: on two file
// systems, as with a snapshot, and one file that two overlays show, as with the
// image of two containers.
func TestOneInodeTwice(t *testing.T) {
	bpftest.RequireRoot(t)
	write := func(dir string) string {
		path := filepath.Join(dir, "libssl.so.3")
		must(t, errors.Join(os.WriteFile(path, []byte("code"), 0o644), os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))))
		return path
	}
	key := func(path string) libraryKey {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		k, err := keyOf(f)
		must(t, err)
		return k
	}
	one, two := write(mount(t, "tmpfs", "")), write(mount(t, "tmpfs", ""))
	if inode(t, one) != inode(t, two) {
		t.Skip("two file systems have not the same inodes here")
	}
	if key(one).same(key(two)) {
		t.Errorf("two files are one: %+v", key(one))
	}

	image, own := t.TempDir(), mount(t, "tmpfs", "") // an overlay cannot write to an overlay
	host := write(image)
	overlay := func(name string) string {
		upper, work := filepath.Join(own, name), filepath.Join(own, name+".work")
		must(t, errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)))
		return filepath.Join(mount(t, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", image, upper, work)), "libssl.so.3")
	}
	a := key(overlay("a"))
	for _, b := range []libraryKey{key(overlay("b")), key(host)} {
		if !a.same(b) || !b.same(a) {
			t.Errorf("one file is two: %+v, %+v", a, b)
		}
	}
}

// TestLiveStrangers has processes besides the server that are none: nobody
// attaches to what they map.
func TestLiveStrangers(t *testing.T) {
	ns, other := bpftest.Namespace(t), bpftest.Namespace(t)
	tap := &fakeTap{}
	trust := trusted(t, ns)
	finder := follow(t, trust, tap)
	w := newWorld(t)
	var theirs []uint64
	elsewhere, unwatched := startServer(t, other), startServer(t, ns)
	for _, s := range []*server{elsewhere, unwatched} {
		ssl := w.library("libssl.so.3", openSSL...)
		theirs = append(theirs, inode(t, ssl))
		s.say("map %s", ssl)
	}
	elsewhere.say("listen 127.0.0.1:%d", livePort)
	unwatched.say("listen 127.0.0.1:%d", livePort+1)

	ssl := w.library("libssl.so.3", openSSL...)
	s := startServer(t, ns)
	s.say("map %s", ssl)
	s.say("listen 127.0.0.1:%d", livePort)
	wait(t, "the library is attached", func() bool { return slices.Contains(tap.inodes(), inode(t, ssl)) })
	for _, inode := range theirs {
		if slices.Contains(tap.inodes(), inode) {
			t.Errorf("attached to a stranger's library: %d", inode)
		}
	}
	if got := tap.heads(); !slices.Equal(got, []uint32{uint32(s.cmd.Process.Pid)}) {
		t.Errorf("heads are %v, want %d", got, s.cmd.Process.Pid)
	}
	c := connection()
	c.Server, c.Netns = finder.Servers()[0].Listeners[0], trust.ID()
	if ok, _, reason := finder.Believe(c, uint32(s.cmd.Process.Pid), uint32(s.cmd.Process.Pid)); !ok {
		t.Errorf("the server is not believed: %s", reason)
	}
	for _, stranger := range []*server{elsewhere, unwatched} {
		pid := uint32(stranger.cmd.Process.Pid)
		if ok, _, _ := finder.Believe(c, pid, pid); ok {
			t.Errorf("believed process %d", pid)
		}
	}
}

// TestOpenHasNoSideEffects has a server map nothing but name a pipe.
func TestOpenHasNoSideEffects(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "10", "map_files", "0-1")
	must(t, errors.Join(os.MkdirAll(filepath.Dir(pipe), 0o755), syscall.Mkfifo(pipe, 0o644)))
	if f, err := openMapped(dir, 10, mapped{id: fileID{1, 1}, span: "0-1", path: "/libssl.so.3"}); err == nil {
		f.Close()
		t.Error("opened a pipe")
	}
}

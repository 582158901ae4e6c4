package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup says that no cgroup v2 file system is mounted.
var ErrNoCgroup = errors.New("no cgroup v2 file system is mounted")

// ErrPartOfCgroups says that only a part of the cgroup tree is visible, as in
// a container: a tap there would miss the host's mail server.
var ErrPartOfCgroups = errors.New("only a part of the cgroup v2 tree is visible (inside a container?)")

// RootCgroup finds the root of the cgroup v2 tree, wherever it is mounted.
func RootCgroup() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	mounts, err := cgroupMounts(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("find cgroup v2: read mounts: %w", err)
	}
	return rootOf(mounts, func(path string) (uint64, error) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return 0, err
		}
		return st.Ino, nil
	})
}

// rootInode is the inode number of the root of the cgroup v2 hierarchy, in
// every cgroup namespace.
const rootInode = 1

// rootOf picks the mount that shows the whole tree.
func rootOf(mounts []string, inode func(path string) (uint64, error)) (string, error) {
	if len(mounts) == 0 {
		return "", ErrNoCgroup
	}
	var errs []error
	part := false // systemd mounts files of the part once more
	for _, path := range mounts {
		ino, err := inode(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("cgroup v2 at %s: %w", path, err))
			continue
		}
		if ino == rootInode {
			return path, nil
		}
		if !part {
			errs = append(errs, fmt.Errorf("%w: %s", ErrPartOfCgroups, path))
		}
		part = true
	}
	return "", errors.Join(errs...)
}

// cgroupMounts reads the mount points of cgroup v2 from a mountinfo file,
// proc_pid_mountinfo(5): the type follows the separator "-", the mount point is
// the fifth field.
func cgroupMounts(r io.Reader) ([]string, error) {
	var mounts []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // overlay mounts have very long options
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		mounts = append(mounts, unescape(fields[4]))
	}
	return mounts, lines.Err()
}

// unescape undoes the octal escapes of mountinfo (\040 is a space).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

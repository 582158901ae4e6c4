package tlstap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openMapped opens a file that a process has mapped. The link in map_files is
// the file itself, also where it is deleted or lies in another mount namespace;
// it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN. Without them the path is
// tried, and the inode must be the one of the mapping.
func openMapped(proc string, pid int, m mapped) (*os.File, error) {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	f, err := openRegular(filepath.Join(dir, "map_files", m.span), 0)
	if err == nil {
		return f, nil
	}
	f, err2 := openRegular(filepath.Join(dir, "root", strings.TrimSuffix(m.path, " (deleted)")), m.id.inode)
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	return f, nil
}

// openRegular opens a regular file without the side effects that opening a
// device or a pipe would have. With an inode it must be that one.
func openRegular(path string, inode uint64) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	handle := os.NewFile(uintptr(fd), path)
	defer func() { _ = handle.Close() }() // nothing was written
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if inode != 0 && st.Ino != inode {
		return nil, fmt.Errorf("%s is another file than the one that is mapped", path)
	}
	f, err := os.Open(selfPath(fd))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

// selfPath names an open file in a way that still leads to it where its path
// does not.
func selfPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// deleted says whether no path leads to the file any more, as after an upgrade.
func deleted(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink == 0
}

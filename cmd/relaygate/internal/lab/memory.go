package lab

import (
	"os"

	"golang.org/x/sys/unix"
)

// TempDir is where temporary files are best: in memory, if there is room for so many bytes
// and nobody said otherwise by TMPDIR. What is shown and tested here is when something
// happens; a slow disk puts off the files for longer than the grants live.
func TempDir(room uint64) string {
	const memory = "/dev/shm"
	var s unix.Statfs_t
	if os.Getenv("TMPDIR") == "" && unix.Statfs(memory, &s) == nil && s.Type == unix.TMPFS_MAGIC &&
		s.Flags&(unix.ST_NOEXEC|unix.ST_RDONLY) == 0 && s.Bavail*uint64(s.Bsize) > room {
		return memory
	}
	return os.TempDir()
}

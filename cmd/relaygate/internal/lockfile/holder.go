package lockfile

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is the number of the process that holds the lock of the file at path, "" if
// none does or that cannot be told. It takes no lock itself, which would keep a process
// from starting at that moment: it reads /proc/locks (proc_locks(5)).
func Holder(path string) string {
	var st unix.Stat_t
	list, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Lstat(path, &st) != nil {
		return ""
	}
	said, _ := os.ReadFile(path) // what Take wrote
	// 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
	for line := range bytes.Lines(list) {
		f := strings.Fields(string(line))
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" {
			continue
		}
		inode := fmt.Sprintf(":%d", st.Ino)
		device := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
		// Of some file systems the kernel names another device here than by stat(2).
		if strings.HasSuffix(f[5], inode) && (f[5] == device+inode || f[4] == strings.TrimSpace(string(said))) {
			return f[4]
		}
	}
	return ""
}

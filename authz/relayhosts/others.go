package relayhosts

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// writableByOthers are the bits of a mode that let others than the owner write.
const writableByOthers fs.FileMode = 0o022

// loose reports whether others than its owner may write the file at path.
func loose(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&writableByOthers != 0
}

// Others says in an error who besides root may write the file that path names, and so
// let anybody relay; nil if nobody may, or it names no file: the rights to /dev/null are
// as they must be.
func Others(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil || !info.Mode().IsRegular(): // which Replace tells
		return nil
	case info.Mode()&writableByOthers != 0:
		return fmt.Errorf("%s can be written by other users: chmod go-w it", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d, who can let anybody relay: chown it to root", path, st.Uid)
	}
	return nil
}

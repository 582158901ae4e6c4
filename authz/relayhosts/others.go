package relayhosts

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writableByOthers are the bits of a mode that let others than the owner write.
const writableByOthers fs.FileMode = 0o022

// loose reports whether others than its owner may write the file at path.
func loose(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&writableByOthers != 0
}

// Others says in an error who besides root may write the file that path names, or put
// another in its place, and so let anybody relay; nil if nobody may, or it names no file:
// the rights to /dev/null are as they must be.
func Others(path string) error {
	target, err := resolve(path)
	if err != nil { // which Replace tells
		return nil
	}
	info, err := os.Stat(target)
	if err != nil || !info.Mode().IsRegular() { // likewise
		return nil
	}
	if err := openToOthers(target, info, 0); err != nil {
		return err
	}
	folder := filepath.Dir(target)
	if info, err = os.Stat(folder); err != nil {
		return nil
	}
	return openToOthers(folder, info, fs.ModeSticky) // there others replace nothing of ours
}

// openToOthers says in an error who besides root may write what is at path, if not as it has a
// mode.
func openToOthers(path string, info fs.FileInfo, but fs.FileMode) error {
	if info.Mode()&writableByOthers != 0 && info.Mode()&but == 0 {
		return fmt.Errorf("%s can be written by other users: chmod go-w it", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d, who can let anybody relay: chown it to root", path, st.Uid)
	}
	return nil
}

package config

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// local are the file systems that no network and no other process answers for.
var local = map[string]bool{
	"bcachefs": true, "btrfs": true, "devtmpfs": true, "erofs": true, "ext2": true, "ext3": true, "ext4": true,
	"f2fs": true, "jfs": true, "overlay": true, "ramfs": true, "reiserfs": true, "rootfs": true, "squashfs": true,
	"tmpfs": true, "vfat": true, "xfs": true, "zfs": true,
}

// mayHang are the mount points of the others, as proc_pid_mountinfo(5) has them.
func mayHang(mountinfo string) map[string]bool {
	points := make(map[string]bool)
	for line := range strings.Lines(mountinfo) {
		const point = 4
		mount, kind, _ := strings.Cut(line, " - ")
		kind, _, _ = strings.Cut(kind, " ")
		fields := strings.Fields(mount)
		if len(fields) <= point {
			continue
		}
		at := fields[point]
		if plain, err := strconv.Unquote(`"` + at + `"`); err == nil { // a space is \040
			at = plain
		}
		points[at] = !local[kind] // the last one is on top
	}
	return points
}

// mostLinks are followed on one path, as path_resolution(7) has it.
const mostLinks = 40

// leadsTo is where a path leads, also if nothing is there yet. File systems that may hang
// are not asked: neither a start nor a verb waits for those, nor can a thread be left behind
// that does, as none could give up its capabilities then.
func leadsTo(path string, slow map[string]bool) string {
	if folder, err := os.Getwd(); err == nil && !filepath.IsAbs(path) { // the configuration's is as it was typed
		path = folder + "/" + path
	}
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." || name == ".." {
			at = filepath.Join(at, name)
			continue
		}
		next := filepath.Join(at, name)
		target, err := "", error(nil)
		if !slow[next] && links < mostLinks {
			target, err = os.Readlink(next)
		}
		switch {
		case errors.Is(err, unix.EINVAL): // no link
			at = next
			continue
		case target == "":
			return filepath.Join(append([]string{next}, rest...)...)
		}
		links++
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at
}

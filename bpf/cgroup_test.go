package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCgroupMounts(t *testing.T) {
	for _, test := range []struct {
		name, mountinfo string
		want            []string
	}{
		{"empty", "", nil},
		{"version 1 only", "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n", nil},
		{"another type with a like name", "32 31 0:29 / /mnt rw - cgroup2fs none rw\n", nil},
		{"the type only as source", "32 31 0:29 / /mnt rw - tmpfs cgroup2 rw\n", nil},
		{"cut line", "32 31 0:29 / - cgroup2 cgroup2 rw\n", nil},
		{"no separator", "32 31 0:29 / /sys/fs/cgroup rw,relatime cgroup2 cgroup2 rw\n", nil},
		{"unified", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", []string{"/sys/fs/cgroup"}},
		{"hybrid", "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", []string{"/sys/fs/cgroup/unified"}},
		{"several optional fields", "30 23 0:26 / /a rw shared:4 master:1 - cgroup2 none rw\n", []string{"/a"}},
		{"escapes", `30 23 0:26 / /mnt/my\040cgroup\134x rw - cgroup2 none rw`, []string{`/mnt/my cgroup\x`}},
		{"no escapes", `30 23 0:26 / /mnt/a\9\04 rw - cgroup2 none rw`, []string{`/mnt/a\9\04`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := cgroupMounts(strings.NewReader(test.mountinfo))
			must(t, err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRootOf(t *testing.T) {
	inodes := map[string]uint64{"/root": 1, "/part": 4711, "/part/unit/memory.pressure": 4712, "/other": 1}
	inode := func(path string) (uint64, error) {
		if ino, ok := inodes[path]; ok {
			return ino, nil
		}
		return 0, fs.ErrNotExist
	}
	for _, test := range []struct {
		name   string
		mounts []string
		want   string
		errs   []error
	}{
		{"none", nil, "", []error{ErrNoCgroup}},
		{"container", []string{"/part"}, "", []error{ErrPartOfCgroups}},
		{"container, and a file of it", []string{"/part", "/part/unit/memory.pressure"}, "", []error{ErrPartOfCgroups}},
		{"gone", []string{"/gone"}, "", []error{fs.ErrNotExist}},
		{"gone and container", []string{"/gone", "/part"}, "", []error{fs.ErrNotExist, ErrPartOfCgroups}},
		{"container with the host's tree mounted", []string{"/part", "/root"}, "/root", nil},
		{"twice", []string{"/other", "/root"}, "/other", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := rootOf(test.mounts, inode)
			if got != test.want || (err == nil) != (test.errs == nil) {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
			if lines := strings.Count(fmt.Sprint(err), "\n") + 1; err != nil && lines != len(test.errs) {
				t.Errorf("%d errors: %v", lines, err)
			}
			for _, want := range test.errs {
				if !errors.Is(err, want) {
					t.Errorf("error is %v, want %v in it", err, want)
				}
			}
		})
	}
}

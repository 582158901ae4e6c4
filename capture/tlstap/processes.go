package tlstap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"relaygate/capture/sockdiag"
)

// Bounds of a walk over the processes.
const (
	// generations is how far from a server its descendants are followed; the
	// kernel side does not climb further either.
	generations = 8
	// processLimit bounds the processes of all families.
	processLimit = 1 << 16
	// mapsPerScan bounds how many processes' mappings one scan reads; the
	// rest has its turn at the next.
	mapsPerScan = 512
)

// process is one of a server's family.
type process struct {
	pid   int
	start uint64
	size  uint64 // when its mappings were read, 0 before
	name  string
	files []*knownFile
	err   error  // why its mappings cannot be read
	seen  uint64 // the scan that saw it last
}

// knownFile is an executable file that was looked into.
type knownFile struct {
	library   *library // nil if it has no TLS functions, or no room
	goProgram bool
	name      string // base name
	err       error  // why it could not be looked into, or is not watched
	looked    uint64 // the scan that looked into it
	seen      uint64 // the scan that saw it last
}

// suspect says whether the file would surely be watched, if it could be.
func (k *knownFile) suspect() bool {
	return k.err != nil && (k.namedTLS() || errors.Is(k.err, errTooManyLibraries))
}

// namedTLS says whether the file has the name of a library that can be watched.
func (k *knownFile) namedTLS() bool {
	return strings.HasPrefix(k.name, "libssl.so") || strings.HasPrefix(k.name, "libgnutls.so")
}

// tree is who descends from whom.
type tree struct {
	stats    map[int]sockdiag.Stat
	children map[int][]int
}

// walk reads the state of every process of the host.
func walk(proc fs.FS) (tree, error) {
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return tree{}, fmt.Errorf("list the processes: %w", err)
	}
	t := tree{stats: make(map[int]sockdiag.Stat), children: make(map[int][]int)}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := sockdiag.ReadStat(proc, pid)
		if err != nil || stat.State == 'Z' {
			continue // it has ended
		}
		t.stats[pid] = stat
		t.children[stat.Parent] = append(t.children[stat.Parent], pid)
	}
	return t, nil
}

// above is the part of the tree that tells which holders of listeners descend from which.
func above(proc fs.FS, listeners []sockdiag.Listener) tree {
	t := tree{stats: make(map[int]sockdiag.Stat)}
	for _, l := range listeners {
		for _, p := range l.Processes {
			for pid, n := p.PID, 0; pid > initProcess && n <= nearGenerations; n++ {
				if _, read := t.stats[pid]; !read {
					stat, err := sockdiag.ReadStat(proc, pid)
					if err != nil || stat.State == 'Z' {
						break // it has ended
					}
					t.stats[pid] = stat
				}
				pid = t.stats[pid].Parent
			}
		}
	}
	return t
}

// members lists a process and its descendants, nearest first.
func (t tree) members(pid, limit int) []int {
	all := []int{pid}
	for begin, depth := 0, 0; depth < generations; depth++ {
		end := len(all)
		for _, p := range all[begin:end] {
			all = append(all, t.children[p]...)
		}
		if len(all) > limit {
			return all[:limit]
		}
		begin = end
	}
	return all
}

// ancestors lists a process's next ancestors, nearest first, without pid 1: half of
// a host descends from it.
func (t tree) ancestors(pid int) []int {
	all := []int{pid}
	for range nearGenerations {
		pid = t.stats[pid].Parent
		if pid <= initProcess || slices.Contains(all, pid) {
			break
		}
		all = append(all, pid)
	}
	return all[1:]
}

// readCgroup names the control group of a process in systemd's hierarchy of version 1
// (cgroups(7)); it is the root where there is none, or where version 2 is in use.
func readCgroup(proc fs.FS, pid int) (string, error) {
	b, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", fmt.Errorf("read the control group of process %d: %w", pid, err)
	}
	var unified, named string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if place, ok := strings.CutPrefix(line, "0::"); ok {
			unified = place
		} else if _, place, ok := strings.Cut(line, ":name=systemd:"); ok {
			named = place
		}
	}
	if rootCgroup(unified) && named != "" {
		return named, nil
	}
	return "/", nil
}

func rootCgroup(place string) bool { return place == "" || place == "/" }

// readMaps lists what a process executes.
func readMaps(proc string, pid int) ([]mapped, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "maps"))
	if err != nil {
		return nil, fmt.Errorf("read the mappings: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return parseMaps(f)
}

package sockdiag

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strconv"
)

// Stat is what /proc/PID/stat says about a process (proc_pid_stat(5)).
type Stat struct {
	// Name is the command name, State its state ('Z' for one that has ended).
	Name  string
	State byte
	// Parent is the process id of the parent.
	Parent int
	// Start is when it started, in clock ticks since the host did: another
	// process that gets the same number later has another one.
	Start uint64
	// Size is the size of its memory, in bytes; it changes with each mapping
	// that is made or removed.
	Size uint64
}

// ReadStat reads the file of a process in a /proc.
func ReadStat(proc fs.FS, pid int) (Stat, error) {
	b, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	s, err := parseStat(b)
	if err != nil {
		return Stat{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	return s, nil
}

// parseStat reads "PID (NAME) STATE PARENT ...". The process chooses its name,
// parentheses and line breaks included; the kernel writes only numbers behind
// it.
func parseStat(b []byte) (Stat, error) {
	const state, parent, start, size = 0, 1, 19, 20 // fields 3, 4, 22 and 23
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("no command name in a stat of %d bytes", len(b))
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) <= size {
		return Stat{}, fmt.Errorf("%d fields behind the command name, want more than %d", len(fields), size)
	}
	s := Stat{Name: string(b[open+1 : end]), State: fields[state][0]}
	var err error
	if s.Parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return Stat{}, fmt.Errorf("parent: %w", err)
	}
	if s.Start, err = strconv.ParseUint(string(fields[start]), 10, 64); err != nil {
		return Stat{}, fmt.Errorf("start: %w", err)
	}
	if s.Size, err = strconv.ParseUint(string(fields[size]), 10, 64); err != nil {
		return Stat{}, fmt.Errorf("size: %w", err)
	}
	return s, nil
}

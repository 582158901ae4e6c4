package tlstap

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// Bounds of what is read about one process.
const (
	mapsLimit    = 8 << 20 // bytes of its maps
	mappedLimit  = 512     // files that it executes
	mapLineLimit = 8 << 10 // bytes of a line: a path and some numbers
)

// fileID tells files apart as /proc/PID/maps does. It stays the file's as long
// as anybody has it mapped or open.
type fileID struct{ device, inode uint64 }

// mapped is a file that a process executes.
type mapped struct {
	id fileID
	// span is the address range of a mapping, as maps and map_files write it.
	span string
	// path is as the process sees it, for people only.
	path string
}

// parseMaps lists the files that are mapped executable (proc_pid_maps(5)),
// each once. With an error the list may be cut.
func parseMaps(r io.Reader) ([]mapped, error) {
	var all []mapped
	lines := bufio.NewScanner(io.LimitReader(r, mapsLimit))
	lines.Buffer(make([]byte, 0, 4<<10), mapLineLimit)
	known := make(map[fileID]bool)
	for lines.Scan() {
		m, ok := parseMapping(lines.Bytes())
		if !ok || known[m.id] {
			continue
		}
		if len(all) == mappedLimit {
			return all, fmt.Errorf("more than %d files are mapped executable", mappedLimit)
		}
		known[m.id] = true
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		return all, fmt.Errorf("read the mappings: %w", err)
	}
	return all, nil
}

// parseMapping reads "START-END PERMS OFFSET MAJOR:MINOR INODE PATH"; it is not
// ok where no file is mapped or not executable.
func parseMapping(line []byte) (m mapped, ok bool) {
	span, rest, _ := bytes.Cut(line, []byte(" "))
	perms, rest, _ := bytes.Cut(rest, []byte(" "))
	if len(perms) != 4 || perms[2] != 'x' {
		return mapped{}, false
	}
	_, rest, _ = bytes.Cut(rest, []byte(" "))
	device, rest, _ := bytes.Cut(rest, []byte(" "))
	inode, path, _ := bytes.Cut(rest, []byte(" "))
	path = bytes.TrimLeft(path, " ")
	if len(path) == 0 || path[0] != '/' || !validSpan(span) {
		return mapped{}, false
	}
	var err error
	if m.id.inode, err = strconv.ParseUint(string(inode), 10, 64); err != nil || m.id.inode == 0 {
		return mapped{}, false
	}
	major, minor, _ := bytes.Cut(device, []byte(":"))
	high, err := strconv.ParseUint(string(major), 16, 32)
	if err != nil {
		return mapped{}, false
	}
	low, err := strconv.ParseUint(string(minor), 16, 32)
	if err != nil {
		return mapped{}, false
	}
	m.id.device = high<<32 | low
	m.span, m.path = string(span), string(path)
	return m, true
}

// validSpan accepts "START-END" in hexadecimal: it becomes part of a path.
func validSpan(b []byte) bool {
	start, end, ok := bytes.Cut(b, []byte("-"))
	return ok && hexadecimal(start) && hexadecimal(end)
}

func hexadecimal(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return 0 < len(b) && len(b) <= 16
}

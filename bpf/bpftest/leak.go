package bpftest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// RunNoLeaks runs a package's tests and fails if they leave file descriptors
// open: of programs, maps and links as well as of sockets. It is for TestMain;
// its result is the exit code.
func RunNoLeaks(m *testing.M) int {
	if err := startPoller(); err != nil {
		fmt.Fprintf(os.Stderr, "start the runtime's poller: %v\n", err)
		return 1
	}
	before, err := openFiles()
	if err != nil {
		fmt.Fprintf(os.Stderr, "list open files: %v\n", err)
		return 1
	}
	code := m.Run()
	after, err := openFiles()
	if err != nil {
		fmt.Fprintf(os.Stderr, "list open files: %v\n", err)
		return 1
	}
	for fd, what := range after {
		if before[fd] != what {
			fmt.Fprintf(os.Stderr, "FAIL: file descriptor %s (%s) was left open\n", fd, what)
			code = max(code, 1)
		}
	}
	return code
}

// startPoller makes the runtime open its own descriptors, which stay.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	return w.Close()
}

// openFiles says what the descriptors of the process are.
func openFiles() (map[string]string, error) {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return nil, err
	}
	open := make(map[string]string, len(fds))
	for _, fd := range fds {
		what, err := os.Readlink(fd)
		if os.IsNotExist(err) {
			continue // the one that Glob read the directory with
		}
		if err != nil {
			return nil, err
		}
		open[filepath.Base(fd)] = what
	}
	return open, nil
}

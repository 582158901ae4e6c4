package sockdiag

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// fakeTables is a namespace's socket tables.
type fakeTables struct {
	sockets []Socket
	err     error
	asked   int
	wait    time.Duration // it takes so long to list them
}

func (f *fakeTables) listening(ports []uint16) ([]Socket, error) {
	f.asked++
	<-time.After(f.wait)
	var all []Socket
	for _, s := range f.sockets {
		if s.State == tcpListen && slices.Contains(ports, s.Local.Port()) {
			all = append(all, s)
		}
	}
	return all, f.err
}

func (f *fakeTables) has(local, remote netip.AddrPort, device uint32, transparent bool) (bool, error) {
	return slices.ContainsFunc(f.sockets, func(s Socket) bool {
		return s.Local == local && s.Remote == remote && (s.device == 0 || s.device == device) && (transparent || !s.transparent)
	}), f.err
}

func (f *fakeTables) Close() error { return nil }

// process is a process in a fake /proc with sockets open.
func process(proc fstest.MapFS, pid int, comm, exe string, inodes ...int) {
	dir := fmt.Sprint(pid)
	proc[dir+"/stat"] = &fstest.MapFile{Data: statOf(pid, comm, 1, 1000+pid)}
	proc[dir+"/status"] = &fstest.MapFile{Data: []byte("Name:\tits\nUid:\t0\t0\t0\t0\n")}
	proc[dir+"/exe"] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte(exe)}
	proc[dir+"/fd/0"] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("/dev/null")}
	for i, inode := range inodes {
		proc[fmt.Sprintf("%s/fd/%d", dir, i+3)] = &fstest.MapFile{
			Mode: fs.ModeSymlink, Data: fmt.Appendf(nil, "socket:[%d]", inode),
		}
	}
}

// statOf is the stat of a process.
func statOf(pid int, comm string, parent, start int) []byte {
	return fmt.Appendf(nil, "%d (%s) S %d 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 4096000 300 0 0\n", pid, comm, parent, start)
}

func listener(local string, uid, inode uint32) Socket {
	return Socket{Local: netip.MustParseAddrPort(local), State: tcpListen, UID: uid, Inode: inode}
}

// host has the processes that the tests need, with the inodes that they hold.
func host() fstest.MapFS {
	proc := fstest.MapFS{"self/stat": {}, "uptime": {}}
	process(proc, 1, "systemd", "/usr/lib/systemd/systemd", 100)
	process(proc, 10, "dovecot", "/usr/sbin/dovecot", 1, 2)
	process(proc, 11, "imap-login", "/usr/lib/dovecot/imap-login", 1, 1)
	process(proc, 20, "docker-proxy", "/usr/bin/docker-proxy", 3)
	process(proc, 21, "innocent", "/usr/bin/socat (deleted)", 4)
	process(proc, 22, "systemd-socket-", "", 5)
	process(proc, 23, "haproxy", "/usr/sbin/haproxy", 6)
	process(proc, 24, "dovecot", "/usr/sbin/dovecot", 7)
	process(proc, 25, "socat", "/usr/bin/socat", 7)
	return proc
}

const here = 4026531840

func tablesOf(f *fakeTables) *Tables {
	t := newTables(Options{Ports: []uint16{143}, Owners: []uint32{0, 8}}, host())
	t.namespaces = []namespace{{id: here, ask: f}}
	return t
}

// run has the tables looked at until what it returns is called.
func run(t *testing.T, tables *Tables) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tables.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		must(t, <-done)
	}
}

// confirms says whether a connection is believed.
func confirms(t *Tables, c authz.Conn, opened time.Time) (ok bool, reason string) {
	belief, reason := t.CheckConnection(c, opened)
	return belief == authz.Believed, reason
}

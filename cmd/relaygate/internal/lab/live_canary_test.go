package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// buffer takes what a process writes while others read it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

// stage is a network whose mail server says what a script says, and a daemon
// with all its outputs taken.
type stage struct {
	*lab.Network
	dir, socket string
	daemon      *exec.Cmd
	ended       chan struct{}

	stdout, stderr, watch, watchJSON buffer
	served                           chan error // what the server of a dialogue said
	script                           chan []authz.Chunk
}

const stageConfig = `[grant]
lifetime = "10m"
max_users = 64
[gate]
mode = "filter"
[files]
relayhosts = %q
users = %q
[state]
path = %q
[control]
socket = %q
[metrics]
listen = "198.51.100.25:9125"
`

func newStage(t *testing.T) *stage {
	t.Helper()
	n, dir := labtest.Network(t), t.TempDir()
	s := &stage{
		Network: n, dir: dir, socket: filepath.Join(dir, "control.sock"), ended: make(chan struct{}),
		served: make(chan error, 1), script: make(chan []authz.Chunk, 1),
	}
	for _, port := range []uint16{lab.POP3Port, lab.IMAPPort} {
		s.listen(t, port)
	}
	config := filepath.Join(dir, "relaygate.toml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, stageConfig, filepath.Join(dir, "relayhosts"),
		filepath.Join(dir, "relayhostsusers"), filepath.Join(dir, "state.db"), s.socket), 0o600))
	s.daemon = s.process(t, &s.stdout, &s.stderr, "run", "--config", config)
	go func() {
		_ = s.daemon.Wait() // how it ends is a test's matter
		close(s.ended)
	}()
	t.Cleanup(func() { s.end(t, syscall.SIGTERM) })
	settles(t, long, func() error {
		return exec.Command(program, "status", "--socket", s.socket).Run()
	})
	for _, w := range []struct {
		out  *buffer
		args []string
	}{{&s.watch, []string{"watch"}}, {&s.watchJSON, []string{"watch", "--json"}}} {
		p := s.process(t, w.out, w.out, append(w.args, "--socket", s.socket)...)
		t.Cleanup(func() { _ = p.Wait() }) // it ends with the daemon
		t.Cleanup(func() { _ = p.Process.Signal(syscall.SIGINT) })
		settles(t, long, func() error {
			s.sync(t)
			if len(w.out.Bytes()) == 0 {
				return errors.New("nobody watches yet")
			}
			return nil
		})
	}
	return s
}

// process starts the program in the server's namespace.
func (s *stage) process(t *testing.T, out, errs io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=system")
	cmd.Stdout, cmd.Stderr = out, errs
	must(t, s.Server.Do(cmd.Start))
	return cmd
}

// end sends the daemon a signal and waits for it.
func (s *stage) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	select {
	case <-s.ended:
		return
	default:
	}
	must(t, s.daemon.Process.Signal(sig))
	select {
	case <-s.ended:
	case <-time.After(long):
		_ = s.daemon.Process.Kill()
		<-s.ended
		t.Errorf("the daemon did not end after %v", sig)
	}
}

// listen serves scripts, one connection at a time.
func (s *stage) listen(t *testing.T, port uint16) {
	t.Helper()
	var ln net.Listener
	must(t, s.Server.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		ln, err = lc.Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
		return err
	}))
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { must(t, ln.Close()) })
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			s.served <- errors.Join(conn.SetDeadline(time.Now().Add(long)),
				speak(conn, <-s.script, authz.FromServer), conn.Close())
		}
	})
}

// speak plays one side of a script: it sends its own chunks, and waits for the
// other's.
func speak(conn net.Conn, script []authz.Chunk, me authz.Dir) error {
	for i, c := range script {
		if c.Dir == me {
			if _, err := conn.Write(c.Bytes); err != nil {
				return fmt.Errorf("chunk %d: %w", i, err)
			}
			continue
		}
		got := make([]byte, len(c.Bytes))
		if _, err := io.ReadFull(conn, got); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
		if !bytes.Equal(got, c.Bytes) {
			return fmt.Errorf("chunk %d is %q, want %q", i, got, c.Bytes)
		}
	}
	return nil
}

// played is a connection: the client's end, and how many lines had been watched
// when it began, as another one may have had the same port before.
type played struct {
	client netip.AddrPort
	before int
}

// play plays a script from a host.
func (s *stage) play(t *testing.T, h *lab.Host, to netip.AddrPort, script []authz.Chunk) played {
	t.Helper()
	before := bytes.Count(s.watchJSON.Bytes(), []byte("\n"))
	conn, err := h.Dial(t.Context(), to)
	must(t, err)
	client, err := netip.ParseAddrPort(conn.LocalAddr().String())
	must(t, err)
	s.script <- script
	must(t, errors.Join(speak(conn, script, authz.FromClient), <-s.served, conn.Close()))
	return played{client, before}
}

// watched is what watch --json tells of a connection.
func (s *stage) watched(t *testing.T, conn played) (verdicts []string) {
	t.Helper()
	n := 0
	for line := range bytes.Lines(s.watchJSON.Bytes()) {
		if n++; n <= conn.before {
			continue
		}
		var ev struct {
			Event, User, Result string
			Client              netip.Addr
			Port                uint16 `json:"client_port"`
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // not all of it has come
		}
		if err := json.Unmarshal(line, &ev); err != nil {
			t.Fatalf("watch --json printed %q: %v", line, err)
		}
		if ev.Event == "login" && netip.AddrPortFrom(ev.Client, ev.Port) == conn.client {
			verdicts = append(verdicts, strings.TrimSpace(ev.Result+" "+ev.User))
		}
	}
	return verdicts
}

// sync plays a login that fails from another host: once it was watched, so was
// everything before.
func (s *stage) sync(t *testing.T) {
	t.Helper()
	said := func(d authz.Dir, text string) authz.Chunk { return authz.Chunk{Dir: d, Bytes: []byte(text)} }
	conn := s.play(t, s.Client6, netip.AddrPortFrom(lab.Server6, lab.POP3Port), []authz.Chunk{
		said(authz.FromServer, "+OK\r\n"),
		said(authz.FromClient, "USER nobody\r\n"), said(authz.FromServer, "+OK\r\n"),
		said(authz.FromClient, "PASS nothing\r\n"), said(authz.FromServer, "-ERR\r\n"),
	})
	if len(s.watchJSON.Bytes()) == 0 {
		return // the watchers come later
	}
	settles(t, long, func() error {
		if len(s.watched(t, conn)) == 0 {
			return errors.New("the login was not watched")
		}
		return nil
	})
}

// outputs runs the verbs that ask the daemon, each with and without --json, and
// hands on what they print.
func (s *stage) outputs(t *testing.T, check func(where string, output []byte), verbs ...string) {
	t.Helper()
	for _, verb := range verbs {
		for _, extra := range []string{"", " --json"} {
			args := append(strings.Fields(verb+extra), "--socket", s.socket)
			out, err := exec.Command(program, args...).CombinedOutput()
			if err != nil {
				t.Errorf("relaygate %s: %v\n%s", verb+extra, err, out)
			}
			check(verb+extra, out)
		}
	}
}

// metrics is what Prometheus reads.
func (s *stage) metrics(t *testing.T) []byte {
	t.Helper()
	conn, err := s.Client4.Dial(t.Context(), netip.AddrPortFrom(lab.Server4, 9125))
	must(t, err)
	_, err = io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n")
	must(t, err)
	page, err := io.ReadAll(conn)
	must(t, errors.Join(err, conn.Close()))
	if !bytes.Contains(page, []byte("200 OK")) || !bytes.Contains(page, []byte("relaygate_")) {
		t.Errorf("the page of metrics is %q", page)
	}
	return page
}

// files hands on every file below the daemon's directory, and with open those
// that the process holds open.
func (s *stage) files(t *testing.T, open bool, check func(where string, content []byte)) {
	t.Helper()
	must(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // renamed meanwhile
		}
		check(path, b)
		return err
	}))
	if !open {
		return
	}
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.daemon.Process.Pid))
	must(t, err)
	for _, path := range paths {
		target, err := os.Readlink(path)
		if info, ierr := os.Stat(path); err != nil || ierr != nil || !info.Mode().IsRegular() || target[0] != '/' {
			continue // a socket, a BPF object, or closed meanwhile
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(t, err)
		check(path, b)
	}
}

package tlstap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/capture/sockdiag"
)

// serverEnv makes the test program a server: see serve.
const serverEnv = "RELAYGATE_TLSTAP_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(bpftest.RunNoLeaks(m))
}

// serve does what each line says: "listen ADDRESS", "map FILE" as the dynamic
// linker does, "chroot FOLDER", "fork": another such server takes over the
// lines. It ends with the lines.
func serve(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 16) // leaves the rest to who takes over
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // the test is over
		}
		verb, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch verb {
		case "listen":
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(context.Background(), "tcp", what)
			if err != nil {
				return err
			}
			defer l.Close()
		case "map":
			f, err := os.Open(what)
			if err != nil {
				return err
			}
			if _, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE); err != nil {
				return err
			}
			f.Close()
		case "chroot":
			if err := errors.Join(unix.Chroot(what), unix.Chdir("/")); err != nil {
				return err
			}
		case "fork":
			child := exec.Command("/proc/self/exe")
			child.Stdin, child.Stdout, child.Stderr = in.(*os.File), out.(*os.File), os.Stderr
			fmt.Fprintln(out, "ok")
			return child.Run()
		}
		fmt.Fprintln(out, "ok")
	}
}

// server is a process that serves.
type server struct {
	t     *testing.T
	in    io.WriteCloser
	out   *bufio.Reader
	cmd   *exec.Cmd
	ended bool
}

func startServer(t *testing.T, ns *netns.Namespace) *server {
	t.Helper()
	s := &server{t: t, cmd: exec.Command(os.Args[0])}
	s.cmd.Env = append(os.Environ(), serverEnv+"=1")
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	must(t, err)
	s.out = bufio.NewReader(out)
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	bpftest.Do(t, ns, s.cmd.Start)
	t.Cleanup(s.end)
	return s
}

func (s *server) say(format string, args ...any) {
	s.t.Helper()
	fmt.Fprintf(s.in, format+"\n", args...)
	if line, err := s.out.ReadString('\n'); err != nil || line != "ok\n" {
		s.t.Fatalf("the server says %q, %v", line, err)
	}
}

func (s *server) end() {
	if s.ended {
		return
	}
	s.ended = true
	_ = s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("server: %v", err)
	}
}

const livePort = 61153

// follow runs a finder on the real /proc and the socket tables of a namespace until the test
// ends; what it attaches to is gone then.
func follow(t *testing.T, trust *bpf.Netns, tap Tap) *Finder {
	t.Helper()
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{livePort}, Owners: []uint32{0}, Netns: []*bpf.Netns{trust}})
	must(t, err)
	finder, err := New(Options{Tap: tap, Tables: tables, Log: silent()})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- tables.Run(ctx) }()
	go func() { done <- finder.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, errors.Join(<-done, <-done, tables.Close()))
		if fake, ok := tap.(*fakeTap); ok && len(fake.inodes()) > 0 {
			t.Errorf("still attached to %v", fake.inodes())
		}
	})
	return finder
}

func trusted(t *testing.T, ns *netns.Namespace) *bpf.Netns {
	t.Helper()
	trust, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, trust) })
	return trust
}

// wait waits until it holds: a finder looks only now and then.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

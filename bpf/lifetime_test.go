package bpf_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// victimEnv makes the test binary a process that loads a tap and waits: one on
// the interface with that index or, if it is 0, one on sockets.
const victimEnv = "RELAYGATE_TEST_VICTIM"

// victim says when it has loaded, and then waits for the end of its input.
func victim(in io.Reader, out io.Writer) error {
	tap, err := victimsTap(os.Getenv(victimEnv))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "loaded"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, tap.Close())
}

func victimsTap(index string) (io.Closer, error) {
	if index == "0" {
		return bpf.Load(bpf.Options{Ports: []uint16{port}})
	}
	i, err := strconv.Atoi(index)
	if err != nil {
		return nil, err
	}
	w, err := bpf.LoadWire(bpf.WireOptions{Ports: []uint16{port}})
	if err != nil {
		return nil, err
	}
	return w, w.Attach(i)
}

// attached lists the programs on the root cgroup.
func attached(t *testing.T) map[ebpf.ProgramID]bool {
	t.Helper()
	root, err := bpf.RootCgroup()
	must(t, err)
	dir, err := os.Open(root)
	must(t, err)
	defer dir.Close()
	ids := make(map[ebpf.ProgramID]bool)
	for _, a := range []ebpf.AttachType{ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupSockOps} {
		got, err := bpf.Programs(int(dir.Fd()), a)
		must(t, err)
		for _, p := range got {
			ids[p.ID] = true
		}
	}
	return ids
}

func TestLinksDieWithTheProcess(t *testing.T) {
	bpftest.RequireRoot(t)
	for _, test := range []struct {
		name string
		end  func(*exec.Cmd, io.Closer) error
	}{
		{"killed", func(cmd *exec.Cmd, _ io.Closer) error { return cmd.Process.Kill() }},
		{"closed", func(_ *exec.Cmd, stdin io.Closer) error { return stdin.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), victimEnv+"=0")
			cmd.Stderr = os.Stderr
			stdin, err := cmd.StdinPipe()
			must(t, err)
			stdout, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil || line != "loaded\n" {
				t.Fatalf("victim said %q, %v", line, err)
			}
			programs := programsOf(t, cmd.Process.Pid)
			present := attached(t)
			// The one on forks comes with the first servers.
			there := 0
			for _, id := range programs {
				if present[id] {
					there++
				}
			}
			if len(programs) != 3 || there != 3 {
				t.Errorf("%d of the victim's programs %v are attached, want all three", there, programs)
			}

			must(t, test.end(cmd, stdin))
			_ = cmd.Wait() // "signal: killed" is what was asked for
			present = attached(t)
			for _, id := range programs {
				if present[id] {
					t.Errorf("program %d is still attached", id)
				}
			}
		})
	}
}

// programsOf finds the programs that a process has open, by their fdinfo.
func programsOf(t *testing.T, pid int) []ebpf.ProgramID {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	fds, err := os.ReadDir(dir)
	must(t, err)
	var ids []ebpf.ProgramID
	for _, fd := range fds {
		info, err := os.ReadFile(dir + "/" + fd.Name())
		must(t, err)
		_, after, isProgram := strings.Cut(string(info), "prog_jited:")
		if !isProgram {
			continue
		}
		var id ebpf.ProgramID
		_, value, _ := strings.Cut(after, "prog_id:")
		if _, err := fmt.Sscan(value, &id); err != nil {
			t.Fatalf("fdinfo %q: %v", info, err)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestWake(t *testing.T) {
	tap := load(t, bpftest.Namespace(t))
	var rec bpf.Record
	wake := func(want int) {
		t.Helper()
		for i := range want {
			if err := tap.Reader().Next(&rec); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("wake %d: %v, want os.ErrDeadlineExceeded", i, err)
			}
		}
	}
	tap.Reader().Wake() // before Next
	tap.Reader().Wake() // two are as good as one
	wake(1)

	var done sync.WaitGroup
	done.Go(tap.Reader().Wake) // during Next
	wake(1)
	done.Wait()

	tap.Reader().SetDeadline(time.Now().Add(time.Millisecond))
	wake(2) // a deadline stays until it is set again
}

func TestPortsNotWatched(t *testing.T) {
	ns := bpftest.Namespace(t)
	for _, test := range []struct {
		ports []uint16
		want  bool
	}{{nil, false}, {[]uint16{port - 1, port + 1}, false}, {[]uint16{1, port, 65535}, true}} {
		t.Run(fmt.Sprint(test.ports), func(t *testing.T) {
			tap := load(t, ns, func(o *bpf.Options) { o.Ports = test.ports })
			l := bpftest.Listen(t, ns, "tcp", addr)
			login(t, bpftest.Dial(t, ns, addr), bpftest.Accept(t, l))
			got := rest(t, tap)
			if seen := len(got) > 0 && got[0].Kind == bpf.Opened; seen != test.want || len(got) > 0 != test.want {
				t.Errorf("records are %+v", got)
			}
		})
	}
}

// TestSynCookies has the kernel keep nothing about a connection before the
// last packet of the handshake.
func TestSynCookies(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	bpftest.Sysctl(t, ns, "2", "ipv4/tcp_syncookies")
	l := bpftest.Listen(t, ns, "tcp", addr)
	login(t, bpftest.Dial(t, ns, addr), bpftest.Accept(t, l))
	got := rest(t, tap)
	if len(got) == 0 || got[0].Reason != bpf.None {
		t.Fatalf("records are %+v, want a trusted connection", got)
	}
	want := "S:+OK ready\r\nC:USER alice\r\nPASS x\r\nS:+OK\r\n+OK logged in\r\n"
	if dialogue := dialogueOf(got); dialogue != want {
		t.Errorf("dialogue is %q, want %q", dialogue, want)
	}
}

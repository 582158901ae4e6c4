package tlstap

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/capture"
)

// libssl finds the library that the openssl program uses.
func libssl(t *testing.T) (program, library string) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	var out []byte
	if err == nil {
		out, err = exec.Command("ldd", program).Output()
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[0], "libssl.so") {
			return program, fields[2]
		}
	}
	const need = "needs an openssl program that uses libssl (package openssl), and ldd"
	if os.Getenv("CI") != "" {
		t.Fatalf("TLS test skipped in CI: %s: %v", need, err)
	}
	t.Skipf("%s: %v", need, err)
	return "", ""
}

// sslServer runs `openssl s_server`: what goes in is sent to the client, what
// comes out is what that sent.
func sslServer(t *testing.T, ns *netns.Namespace, program, library string, port int) (pid int, in io.Writer, out io.Reader) {
	t.Helper()
	cert, key := bpftest.Certificate(t, t.TempDir())
	cmd := exec.Command(program, "s_server", "-quiet", "-accept", fmt.Sprint("127.0.0.1:", port), "-cert", cert, "-key", key)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(library))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	bpftest.Do(t, ns, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		_ = stdin.Close()
	})
	return cmd.Process.Pid, stdin, stdout
}

// TestLiveJoin logs in through a private copy of OpenSSL and reads it.
func TestLiveJoin(t *testing.T) {
	ns := bpftest.Namespace(t)
	program, original := libssl(t)
	code, err := os.ReadFile(original)
	must(t, err)
	library := filepath.Join(t.TempDir(), filepath.Base(original))
	must(t, os.WriteFile(library, code, 0o755))
	trust := trusted(t, ns)
	tap, err := bpf.Load(bpf.Options{Ports: []uint16{livePort}, Owners: []uint32{0}, Netns: []*bpf.Netns{trust}})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, tap) })
	finder := follow(t, trust, KernelTap{tap})
	pid, in, out := sslServer(t, ns, program, library, livePort)
	wait(t, "the server is seen", func() bool {
		servers := finder.Servers()
		return len(servers) == 1 && servers[0].PID == pid && servers[0].Seen() && used(servers[0], library) != nil
	})

	raw := bpftest.Dial(t, ns, fmt.Sprint("127.0.0.1:", livePort))
	client := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	const greeting, command, answer = "* OK ready\r\n", "a1 LOGIN alice secret\r\n", "a1 OK\r\n"
	must(t, client.Handshake())
	pass(t, in, client, greeting)
	pass(t, client, out, command)
	pass(t, in, client, answer) // wakes the reader

	ring := capture.NewRing(tap)
	ring.SetDeadline(time.Now().Add(10 * time.Second))
	var conn authz.Conn
	var said [2]string // by the client, by the server
	var ev capture.Event
	for said != [2]string{command, greeting + answer} {
		if err := ring.Next(&ev); err != nil {
			t.Fatalf("read %q: %v", said, err)
		}
		switch ev.Kind {
		case capture.Opened:
			conn = ev.Conn
		case capture.Plain:
			if ev.Conn.Cookie != conn.Cookie || int(ev.Plain.Owner) != pid {
				t.Fatalf("plaintext is %+v", ev)
			}
			if ok, _, reason := finder.Believe(conn, ev.Plain.Process, ev.Plain.Owner); !ok {
				t.Errorf("not believed: %s", reason)
			}
			said[ev.Plain.Dir] += string(ev.Plain.Bytes)
		}
	}
	if conn.Client.String() != raw.LocalAddr().String() {
		t.Errorf("client is %v, want %v", conn.Client, raw.LocalAddr())
	}
	wait(t, "the handshake is recognised", func() bool { return used(finder.Servers()[0], library).Recognised })
}

// pass writes at one end and waits until it has come out at the other.
func pass(t *testing.T, to io.Writer, from io.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("received %q, %v, want %q", got, err, text)
	}
}

// used is what is said of a library that a server is seen with.
func used(s Server, path string) *LibraryUse {
	for _, l := range s.Libraries {
		if l.Path == path && !l.Expected {
			return &l
		}
	}
	return nil
}

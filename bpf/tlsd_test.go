package bpf_test

import (
	"bufio"
	"crypto/tls"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// tlsd is the test server in testdata, for one library.
type tlsd struct {
	program, cert, key string
	library            bpf.Library
}

// opensslTap has a namespace tapped, for a server with OpenSSL.
func opensslTap(t testing.TB, change ...func(*bpf.Options)) (*tlsd, *netns.Namespace, *bpf.Tap) {
	t.Helper()
	d, ns := buildTLSD(t, bpf.OpenSSL), bpftest.Namespace(t)
	return d, ns, load(t, ns, change...)
}

// buildTLSD compiles the test server. Where that cannot be done the test is
// skipped, but not in CI.
func buildTLSD(t testing.TB, kind bpf.LibraryKind, flags ...string) *tlsd {
	t.Helper()
	bpftest.RequireRoot(t)
	dir := t.TempDir()
	d := &tlsd{program: filepath.Join(dir, "tlsd")}
	args := append([]string{"-o", d.program, "testdata/tlsd.c"}, flags...)
	need := "cc, libc6-dev and "
	soname := "libssl.so.3"
	if kind == bpf.GnuTLS {
		soname = "libgnutls.so.30"
		args = append(args, "-DGNUTLS", "-l:"+soname)
		need += "libgnutls30"
	} else {
		args = append(args, "-l:"+soname, "-l:libcrypto.so.3")
		need += "libssl3"
	}
	if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("compile the TLS test server: %v\n%s", err, out)
		}
		t.Skipf("the TLS test server needs %s: %v", need, err)
	}
	d.cert, d.key = bpftest.Certificate(t, dir)
	// A user who is not root runs it too.
	for _, path := range []string{filepath.Dir(dir), dir, d.program, d.cert, d.key} {
		must(t, os.Chmod(path, 0o755))
	}
	d.library = libraryOf(t, kind, d.program, soname)
	return d
}

// libraryOf finds the file of a library that a program is linked to.
func libraryOf(t testing.TB, kind bpf.LibraryKind, program, soname string) bpf.Library {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	must(t, err)
	_, line, _ := strings.Cut(string(out), soname+" => ")
	path, _, _ := strings.Cut(line, " ")
	f, err := elf.Open(path)
	must(t, err)
	defer bpftest.Close(t, f)
	symbols, err := f.DynamicSymbols()
	must(t, err)
	return libraryIn(t, kind, path, f, symbols)
}

// libraryIn says where in a file the functions are.
func libraryIn(t testing.TB, kind bpf.LibraryKind, path string, f *elf.File, symbols []elf.Symbol) bpf.Library {
	t.Helper()
	lib := bpf.Library{Path: path, Kind: kind, Functions: make(map[string]bpf.Function)}
	for _, s := range symbols {
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
				lib.Functions[s.Name] = bpf.Function{Offset: s.Value - p.Vaddr + p.Off, Size: s.Size}
			}
		}
	}
	return lib
}

// serve starts the server on a listener of its own, in ns, until the test ends.
func (d *tlsd) serve(t testing.TB, ns *netns.Namespace, addr string, options ...string) bpf.ServerProcess {
	t.Helper()
	l := bpftest.Listen(t, ns, "tcp", addr)
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	defer bpftest.Close(t, file)
	cmd := exec.Command(d.program, append([]string{"serve", d.cert, d.key}, options...)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed" is what was asked for
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the TLS test server said %q, %v", line, err)
	}
	return process(t, cmd.Process.Pid)
}

// process reads when a process started, proc_pid_stat(5).
func process(t testing.TB, pid int) bpf.ServerProcess {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	must(t, err)
	return bpf.ServerProcess{PID: uint32(pid), Start: start}
}

// tlsClient is a connection that remembers what the server sent in clear.
type tlsClient struct {
	*tls.Conn
	wire *recorder
}

type recorder struct {
	net.Conn
	in []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.in = append(r.in, b[:n]...)
	return n, err
}

// random is what the first ServerHello showed.
func (c *tlsClient) random() []byte { return c.wire.in[11:43] }

// dialTLS connects and shakes hands.
func dialTLS(t testing.TB, ns *netns.Namespace, addr string, change ...func(*tls.Config)) *tlsClient {
	t.Helper()
	return shakeHands(t, bpftest.Dial(t, ns, addr), change...)
}

func shakeHands(t testing.TB, c net.Conn, change ...func(*tls.Config)) *tlsClient {
	t.Helper()
	patient(t, c)
	// One record for each Write, which is one read of the server.
	config := &tls.Config{ServerName: "mail.test", InsecureSkipVerify: true, DynamicRecordSizingDisabled: true}
	for _, fn := range change {
		fn(config)
	}
	wire := &recorder{Conn: c}
	client := &tlsClient{Conn: tls.Client(wire, config), wire: wire}
	if err := client.Handshake(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return client
}

// patient bounds what is next said and read on a connection. The other tests of
// the module run at the same time, so it bears a busy machine.
func patient(t testing.TB, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
}

// say sends a line and reads the answer.
func (c *tlsClient) say(t testing.TB, line string) {
	t.Helper()
	patient(t, c)
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	want := "+OK " + line
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("answer is %.100q, %v, want %.100q", got, err, want)
	}
}

// cookieOf finds the connection of a client among the records.
func cookieOf(t testing.TB, all []seen, c net.Conn) uint64 {
	t.Helper()
	for _, r := range all {
		if r.Kind == bpf.Opened && r.Client == c.LocalAddr().(*net.TCPAddr).AddrPort() {
			return r.Cookie
		}
	}
	t.Fatalf("no Opened for %v", c.LocalAddr())
	return 0
}

// plainOf joins what one connection said through TLS.
func plainOf(all []seen, cookie uint64) string {
	var s string
	for _, r := range all {
		if r.Kind != bpf.Plain || r.Cookie != cookie {
			continue
		}
		dir := "C:"
		if r.Egress {
			dir = "S:"
		}
		s += dir + r.payload
	}
	return s
}

// answers reads until so many answers were written through TLS. The client can
// have an answer before the function that wrote it returns and is told of.
func answers(t testing.TB, tap *bpf.Tap, n int) []seen {
	t.Helper()
	return collect(t, tap, func(s seen) bool {
		if s.Kind == bpf.Plain && s.Egress {
			n--
		}
		return n == 0
	})
}

// count counts the records of a kind.
func count(all []seen, k bpf.Kind) int {
	n := 0
	for _, r := range all {
		if r.Kind == k {
			n++
		}
	}
	return n
}

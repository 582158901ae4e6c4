//go:build e2e

package overtls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/e2e/layer"
)

// recorder keeps what a connection has read.
type recorder struct {
	net.Conn
	read []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if len(r.read) < 4096 {
		r.read = append(r.read, p[:n]...)
	}
	return n, err
}

// tapped is a client's connection whose ServerHello everybody may know.
type tapped struct {
	*attempt
	*dialogue
	hello  []byte // the first record that the server sent
	random []byte // its server_random (RFC 8446 §4.1.3)
}

// open does the handshake and reads the greeting, and no more.
func (w *world) open(t *testing.T, s service) *tapped {
	t.Helper()
	w.next++
	v := &tapped{attempt: &attempt{
		service: s, user: user(w.next), client: nth(clients4, w.next+1), password: []string{right}, begun: time.Now(),
		config: &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP256},
		},
	}}
	tcp, err := w.dial(v.client, s.at.v4, s.port)
	must(t, err)
	t.Cleanup(func() { tcp.Close() })
	must(t, tcp.SetDeadline(time.Now().Add(time.Minute)))
	r := &recorder{Conn: tcp}
	v.dialogue = &dialogue{Conn: r, r: bufio.NewReader(r)}
	must(t, v.secure(v.attempt))
	// A record's header has 5 octets, a handshake message's 4, the version 2.
	// What came in clear text before has no such octets.
	r.read = r.read[max(0, bytes.Index(r.read, []byte{0x16, 3, 3})):]
	if len(r.read) < 43 || r.read[0] != 0x16 || r.read[5] != 2 {
		t.Fatalf("no ServerHello in %x", r.read)
	}
	v.hello = r.read[:5+int(r.read[3])<<8+int(r.read[4])]
	v.random = r.read[11:43]
	return v
}

// login goes on where open has stopped.
func (v *tapped) login(t *testing.T) {
	t.Helper()
	must(t, v.imap(v.attempt))
	v.ended = time.Now()
}

// python is Debian's, which every user may run; another in PATH may be one
// person's own.
const python = "/usr/bin/python3"

// planter makes a connection to itself in its own memory, writes another
// connection's random into the server's object, and plays a login through it.
const planter = `
import ctypes, sys
ssl, crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")
P = ctypes.c_void_p
for lib, names in (ssl, "TLS_method SSL_CTX_new SSL_new"), (crypto, "BIO_new BIO_s_mem"):
    for name in names.split():
        getattr(lib, name).restype = P
both, random, user = sys.argv[1].encode(), bytes.fromhex(sys.argv[2]), sys.argv[3].encode()
ctx = P(ssl.SSL_CTX_new(P(ssl.TLS_method())))
assert ssl.SSL_CTX_use_certificate_chain_file(ctx, both) == 1
assert ssl.SSL_CTX_use_PrivateKey_file(ctx, both, 1) == 1
server, client = P(ssl.SSL_new(ctx)), P(ssl.SSL_new(ctx))
up, down = (P(crypto.BIO_new(P(crypto.BIO_s_mem()))) for _ in range(2))
for bio in up, down:
    crypto.BIO_up_ref(bio)
ssl.SSL_set_bio(server, up, down)
ssl.SSL_set_bio(client, down, up)
ssl.SSL_set_accept_state(server)
ssl.SSL_set_connect_state(client)
for _ in range(5):
    ssl.SSL_do_handshake(client)
    ssl.SSL_do_handshake(server)
own = ctypes.create_string_buffer(32)
assert ssl.SSL_get_server_random(server, own, 32) == 32
def plant(to, old):
    at = ctypes.string_at(to.value, 0x600).find(old)
    assert at > 0
    ctypes.memmove(to.value + at, random, 32)
for to in server, client:
    plant(to, own.raw)
buf = ctypes.create_string_buffer(4096)
def talk(frm, to, line):
    assert ssl.SSL_write(frm, line, len(line)) == len(line)
    assert ssl.SSL_read(to, buf, len(buf)) == len(line)
for _ in range(50):
    talk(client, server, b"a1 LOGIN " + user + b" x\r\n")
    talk(server, client, b"a1 OK [CAPABILITY IMAP4rev1] Logged in\r\n")
print("planted", flush=True)
sys.stdin.read()
`

// plant runs the planter in the servers' namespace. It stays alive, with its
// object, until the test ends.
func (w *world) plant(t *testing.T, uid uint32, random []byte, user string) {
	t.Helper()
	cmd := exec.Command(python, "-c", planter, w.both, hex.EncodeToString(random), user)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	said := &layer.Output{}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, w.server.Do(cmd.Start))
	t.Cleanup(func() {
		in.Close()
		must(t, cmd.Wait())
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "planted\n" {
		t.Fatalf("the planter said %q (%v):\n%s", line, err, said)
	}
}

// TestPlantedRandom: processes outside of the mail server's family, with a
// live connection's random in their own object, neither make up a login nor
// suppress one.
func TestPlantedRandom(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	a := w.startAgent(t)
	w.attached(t, a)
	var all []*attempt
	for name, uid := range map[string]uint32{"an unprivileged user": 65534, "root": 0} {
		v := w.open(t, service{"dovecot-busy", atBusy, 993, imap, true})
		w.plant(t, uid, v.random, "mallory")
		all = append(all, w.load(40)...) // what was planted arrives before
		a.settle(t, all)
		if got := a.all(v.client); len(got) > 0 {
			t.Errorf("%s planted a random, and relaygate says %+v", name, got)
		}
		v.login(t)
		all = append(all, v.attempt)
	}
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a))
}

// TestReplayedServerHello: a client that sends another connection's ServerHello
// to the server changes nothing.
func TestReplayedServerHello(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	a := w.startAgent(t)
	w.attached(t, a)
	v := w.open(t, service{"dovecot-busy", atBusy, 993, imap, true})
	for _, port := range []uint16{143, 993, 110} {
		w.next++
		c, err := w.dial(nth(clients4, w.next+1), atBusy.v4, port)
		must(t, err)
		_, err = c.Write(v.hello)
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		_, _ = io.Copy(io.Discard, c) // until the server has had enough
		c.Close()
	}
	v.login(t)
	all := []*attempt{v.attempt}
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a))
}

// TestLocalClient: openssl s_client on the server's host uses the same library
// with the same random as the server. It reads what the server writes, and
// writes what looks like an answer.
func TestLocalClient(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	a := w.startAgent(t)
	w.attached(t, a)
	cmd := exec.Command("openssl", "s_client", "-quiet", "-connect", netip.AddrPortFrom(atBusy.v4, 993).String(), "-ign_eof")
	cmd.Stdin = strings.NewReader("a1 LOGIN mallory wrong\r\na1 OK Logged in\r\n* OK\r\na1 OK\r\nc1 LOGOUT\r\n")
	said := &layer.Output{}
	cmd.Stdout, cmd.Stderr = said, said
	must(t, w.server.Do(cmd.Start))
	_ = cmd.Wait()
	if !strings.Contains(said.String(), "a1 NO") {
		t.Errorf("the server did not refuse the login: %s", said)
	}
	all := w.load(40)
	a.settle(t, all)
	if a.has(atBusy.v4, func(v verdict) bool { return v.Result == "success" }) {
		t.Errorf("the local client's own words logged it in: %+v", a.all(atBusy.v4))
	}
	t.Log(judge(t, append(all, w.probes...), a))
}

// fakeServer takes every password, in a namespace of its own.
const fakeServer = `
import socket, ssl, sys
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ctx.load_cert_chain(sys.argv[1])
ln = socket.create_server((sys.argv[2], 993))
print("listening", flush=True)
while True:
    c, _ = ln.accept()
    with ctx.wrap_socket(c, server_side=True) as s:
        s.sendall(b"* OK IMAP4rev1 ready\r\n")
        while line := s.recv(4096):
            s.sendall(line.split()[0] + b" OK done\r\n")
`

// TestFakeServer: root in another namespace, as in a container, is a server
// that nobody trusts.
func TestFakeServer(t *testing.T) {
	w := newWorld(t)
	w.startBusyDovecot(t)
	a := w.startAgent(t)
	w.attached(t, a)
	other := &world{client: bpftest.Namespace(t)}
	must(t, other.client.Do(func() error {
		return errors.Join(netns.AddRoute(servers4, netip.Addr{}), netns.AddRoute(clients4, netip.Addr{}))
	}))
	cmd := exec.Command(python, "-c", fakeServer, w.both, atBusy.v4.String())
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, other.client.Do(cmd.Start))
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	})
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	other.next = 30000
	for range 5 {
		v := other.open(t, service{"fake", atBusy, 993, imap, true})
		v.login(t)
		if !v.ok {
			t.Errorf("the fake server refused:\n%s", v.dialogue.seen.String())
		}
		v.Close()
	}
	all := w.load(40)
	a.settle(t, all)
	t.Log(judge(t, append(all, w.probes...), a)) // it knows nothing of the fake's clients
}

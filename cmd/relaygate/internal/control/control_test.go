package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// fakeDaemon answers with what it holds.
type fakeDaemon struct {
	grants []Grant
	err    error
	orders []Order
	by     By
}

func (f *fakeDaemon) Order(_ context.Context, by By, o Order) (Outcome, error) {
	f.orders, f.by = append(f.orders, o), by
	return Outcome{Result: "done"}, f.err
}

func (f *fakeDaemon) Status(context.Context) (Status, error) {
	return Status{Version: "test", Drops: map[string]uint64{"a bound": 3}}, f.err
}

func (f *fakeDaemon) Grants(_ context.Context, visit func(*Grant)) error {
	for i := range f.grants {
		visit(&f.grants[i])
	}
	return f.err
}

func (f *fakeDaemon) Denials(context.Context) ([]Denial, error) {
	return []Denial{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}, f.err
}

func (f *fakeDaemon) Why(_ context.Context, a netip.Addr) (Story, error) {
	return Story{Address: a, Reason: "may not relay: it is a test"}, f.err
}

// serve runs a server on a socket of its own and returns a client of it.
func serve(t *testing.T, d Daemon, hub *Hub) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, d, hub, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return NewClient(path)
}

func TestAnswers(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	at := Time{time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)}
	c := serve(t, &fakeDaemon{grants: []Grant{{Address: &addr, Since: at, Users: []Text{"alice"}}}}, NewHub())
	if s, err := c.Status(t.Context()); err != nil || s.Drops["a bound"] != 3 {
		t.Errorf("status = %+v, %v", s, err)
	}
	g, err := c.Grants(t.Context())
	if err != nil || len(g) != 1 || g[0].Name() != "192.0.2.7" || !g[0].Since.Equal(at.Time) || !g[0].Expires.IsZero() {
		t.Errorf("grants = %+v, %v", g, err)
	}
	if s, err := c.Why(t.Context(), netip.MustParseAddr("2001:db8::1")); err != nil || s.Address.String() != "2001:db8::1" {
		t.Errorf("why = %+v, %v", s, err)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	c := serve(t, &fakeDaemon{err: errors.New("the owner is away")}, NewHub())
	for name, ask := range map[string]func() error{
		"status": func() error { _, err := c.Status(t.Context()); return err },
		"grants": func() error { _, err := c.Grants(t.Context()); return err },
		"why":    func() error { _, err := c.Why(t.Context(), netip.MustParseAddr("::1")); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "the owner is away") {
			t.Errorf("%s: error %v, want the daemon's", name, err)
		}
	}
}

// Grants come in order, and none are believed to be all where the daemon came no further.
func TestGrantsAreWrittenWhileTheyAreRead(t *testing.T) {
	single, network := netip.MustParseAddr("192.0.2.7"), netip.MustParsePrefix("192.0.2.0/28")
	d := &fakeDaemon{}
	c := serve(t, d, NewHub())
	if g, err := c.Grants(t.Context()); g == nil || len(g) != 0 || err != nil {
		t.Errorf("of no grants came %+v, %v", g, err)
	}
	for range 1000 { // more than is gathered before it is sent
		d.grants = append(d.grants, Grant{Address: &single})
	}
	d.grants = append(d.grants, Grant{Prefix: &network})
	g, err := c.Grants(t.Context())
	if err != nil || len(g) != len(d.grants) || g[0].Name() != network.String() || g[1].Name() != single.String() {
		t.Errorf("of %d came %d, %v", len(d.grants), len(g), err)
	}
	d.err = errors.New("the daemon ends")
	if g, err := c.Grants(t.Context()); err == nil {
		t.Errorf("%d grants are taken for all", len(g))
	}
}

func TestNoDaemon(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is relaygate running?") {
		t.Errorf("error %v, want the question whether it runs", err)
	}
}

// A daemon that ends while it is asked has not answered, as one that is not there.
func TestDaemonThatEndsBeforeTheAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1)) // the rest, unread, resets it
			_ = conn.Close()
		}
	}()
	_, err = NewClient(path).Status(t.Context())
	if silence, ok := errors.AsType[*SilentError](err); !ok || !strings.HasPrefix(silence.Error(), "relaygate ended") {
		t.Errorf("it says %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestWrongRequests(t *testing.T) {
	h := handler(&fakeDaemon{}, NewHub())
	for _, tt := range []struct {
		name, method, path string
		want               int
	}{
		{"status", "GET", "/v1/status", http.StatusOK},
		{"no address", "GET", "/v1/why", http.StatusBadRequest},
		{"bad address", "GET", "/v1/why?address=1.2.3", http.StatusBadRequest},
		{"zone", "GET", "/v1/why?address=fe80::1%25eth0", http.StatusBadRequest},
		{"wrong method", "POST", "/v1/status", http.StatusMethodNotAllowed},
		{"unknown path", "GET", "/v1/passwords", http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil))
		if w.Code != tt.want {
			t.Errorf("%s: code %d, want %d", tt.name, w.Code, tt.want)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	// A socket that nobody listens on any more.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v, want 0660", info.Mode(), err)
	}
	process := fmt.Sprintf("process %d ", os.Getpid())
	if _, err := Listen(path); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), process) {
		t.Errorf("second daemon: error %v, want ErrRunning with %q", err, process)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("precious"), 0o600))
	if _, err := Listen(file); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

// Whom the mode lets in may ask: at no time is it wider than it shall be, and whatever the
// daemon's umask is, it is no narrower then.
func TestModeOfTheSocket(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		for name, made := range map[string]func(string) (*net.UnixListener, error){"made": bind, "in use": listen} {
			path := filepath.Join(t.TempDir(), "s")
			before := syscall.Umask(mask)
			l, err := made(path)
			syscall.Umask(before)
			must(t, err)
			info, err := os.Stat(path)
			must(t, err)
			if mode := info.Mode().Perm(); mode&^socketMode != 0 || name == "in use" && mode != socketMode {
				t.Errorf("with umask %04o, %s: mode %04o, want %04o", mask, name, mode, socketMode)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Where systemd made no folder for the socket, the daemon does.
func TestListenMakesTheFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "relaygate", "s")
	l, err := Listen(path)
	must(t, err)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A client keeps its connection, however long the answers are: a daemon without
// descriptors takes no other.
func TestConnectionIsKept(t *testing.T) {
	for _, n := range []int{1, 100, 10_000} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := Listen(path)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, l, &fakeDaemon{grants: make([]Grant, n)}, NewHub(), slog.New(slog.DiscardHandler))
		}()
		c := NewClient(path)
		for asked := range 3 {
			if g, err := c.Grants(t.Context()); err != nil || len(g) != n {
				t.Errorf("answer %d: %d of %d grants, %v", asked, len(g), n, err)
			}
			_ = os.Remove(path) // nobody can connect any more
		}
		cancel()
		if err := errors.Join(<-ended, l.Close()); err != nil {
			t.Error(err)
		}
	}
}

// A daemon of another version does not know what it is asked.
func TestOtherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	must(t, err)
	other := &http.Server{Handler: http.NotFoundHandler()}
	ended := make(chan error, 1)
	go func() { ended <- other.Serve(l) }()
	_, err = NewClient(path).Denials(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("error %v, want that it is of another version", err)
	}
	if err := errors.Join(other.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	<-ended
}

func TestTextIsExactAndHarmless(t *testing.T) {
	for _, s := range []string{
		"", "alice@example.org", "Ünï", "a\x1b[31mb", "\u202egnp.exe", "<script>", "=cmd|' /C calc'!A0", "+1", "-1", "@x",
		"a\r\nb", `quo"te\`, "\U000e0041tag", "\u200b", "\u0301a", "😀",
	} {
		b, err := json.Marshal(Text(s))
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Errorf("%q came back as %q, %v", s, back, err)
		}
		for _, bad := range []string{"<", ">", "&", "'", "\x1b", "\u202e", "\u200b", "\U000e0041", `"=`, `"+`, `"@`} {
			if strings.Contains(string(b), bad) {
				t.Errorf("%q is printed as %s, which holds %q", s, b, bad)
			}
		}
	}
}

// Of a listener that is not believed nothing was read: no protocol is told.
func TestUntrustedHasNoProtocol(t *testing.T) {
	ev := authz.Event{Kind: authz.EventUntrusted, Conn: authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:50000")}}
	if got := NewEvent(&ev); got.Protocol != "" || got.Client != "192.0.2.7" {
		t.Errorf("%+v, want no protocol", got)
	}
}

func TestTimeShape(t *testing.T) {
	at := Time{time.Date(2026, 1, 2, 4, 4, 5, 678901234, time.FixedZone("", 3600))}
	if b, err := json.Marshal(at); err != nil || string(b) != `"2026-01-02T03:04:05.678901Z"` {
		t.Errorf("time = %s, %v", b, err)
	}
	if b, err := json.Marshal(Time{}); err != nil || string(b) != "null" {
		t.Errorf("zero time = %s, %v", b, err)
	}
}

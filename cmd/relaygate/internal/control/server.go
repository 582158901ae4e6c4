package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/lockfile"
)

// Daemon answers what the socket is asked. Its methods may be called from many
// goroutines.
type Daemon interface {
	Status(context.Context) (Status, error)
	// Grants visits the grants, in no order.
	Grants(context.Context, func(*Grant)) error
	Denials(context.Context) ([]Denial, error)
	Why(context.Context, netip.Addr) (Story, error)
	// Order does what root asked for, and returns when the gate has done it.
	Order(context.Context, By, Order) (Outcome, error)
}

// ErrRunning: another daemon holds the socket.
var ErrRunning = errors.New("another relaygate is running")

// Listen makes the socket at path, mode 0660, and its folder if it is missing, as
// nobody has made that where systemd did not. A socket that a dead daemon left is
// replaced; a file of another kind never. The lock beside it decides between two
// daemons that start at once.
func Listen(path string) (*Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the control socket's folder: %w", err)
	}
	lock, err := lockfile.Take(path + ".lock")
	if held := (*lockfile.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w: process %s holds %s", ErrRunning, held.Process, path)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the control socket: %w", err)
	}
	l, err := listen(path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at the control socket: %w", err), l.Close(), lock.Close())
	}
	return &Listener{UnixListener: l, path: path, info: info, lock: lock}, nil
}

func listen(path string) (*net.UnixListener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at the control socket: %w", err)
	case info.Mode()&os.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there and is no socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the stale control socket: %w", err)
		}
	}
	l, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil { // whatever umask(2) took away
		return nil, errors.Join(fmt.Errorf("set the mode of the control socket: %w", err), l.Close())
	}
	return l, nil
}

// socketMode lets root and its group ask, or the group that the daemon runs in.
const socketMode = 0o660

// bind makes the socket with no more than its mode: who connects may ask. The kernel gives
// the file that bind(2) makes the mode of the socket itself, but for umask(2).
func bind(path string) (*net.UnixListener, error) {
	narrow := func(_, _ string, c syscall.RawConn) (failed error) {
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, failed)
	}
	l, err := (&net.ListenConfig{Control: narrow}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// Listener is the control socket and the lock that keeps others away.
type Listener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	lock *os.File
}

// There says whether the socket is still where clients look for it.
func (l *Listener) There() bool {
	info, err := os.Lstat(l.path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false
	}
	return err != nil || os.SameFile(info, l.info) // on an error nobody knows
}

// Close removes the socket, but nothing that another put in its place. It may be called
// again.
func (l *Listener) Close() error {
	l.SetUnlinkOnClose(l.There())
	var errs []error
	for _, err := range []error{l.UnixListener.Close(), l.lock.Close()} {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// The bounds of the socket.
const (
	maxHeader    = 8 << 10
	readTimeout  = 5 * time.Second
	writeTimeout = 18 * time.Second // longer than an order takes
	maxWatchers  = 32
	forRoot      = 32 // connections, beyond those of everybody
)

// Bound has a server close its connections beyond a number: somebody may leave his open,
// and without descriptors nobody's login is believed. Root has a few more, so that nobody
// else keeps its orders away, nor by those that are closed for that again and again.
func Bound(most int64) func(net.Conn, http.ConnState) {
	var mu sync.Mutex
	clients := make(map[net.Conn]bool)
	return func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch n := int64(len(clients)); state {
		case http.StateNew:
			if n >= most+forRoot || n >= most && !isRoot(c) {
				_ = c.Close() // its reader sees that and ends it
				return
			}
			clients[c] = true
		case http.StateClosed, http.StateHijacked:
			delete(clients, c)
		}
	}
}

// maxClients is a part of the descriptors that the process may have.
func maxClients() int64 {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return maxWatchers
	}
	const share = 4
	return int64(min(files.Cur/share, 1<<14))
}

// Serve answers on l until ctx is done, and logs what keeps it from that.
func Serve(ctx context.Context, l net.Listener, d Daemon, hub *Hub, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           handler(d, hub),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: readTimeout,
		MaxHeaderBytes: maxHeader,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnContext:    withPeer,
		ConnState:      Bound(maxClients()),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the control socket: %w", err)
	}
	return nil
}

func handler(d Daemon, hub *Hub) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", get(d.Status))
	mux.HandleFunc("GET /v1/grants", grants(d))
	mux.HandleFunc("GET /v1/denials", get(d.Denials))
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("address"))
		if err != nil || addr.Zone() != "" {
			http.Error(w, "that is no address", http.StatusBadRequest)
			return
		}
		s, err := d.Why(r.Context(), addr.Unmap())
		reply(w, s, err)
	})
	for _, verb := range verbs {
		mux.HandleFunc("POST /v1/"+verb, order(d, verb))
	}
	mux.HandleFunc("GET /v1/watch", hub.serve)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
		mux.ServeHTTP(w, r)
	})
}

// get answers with what is asked of the daemon.
func get[T any](ask func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := ask(r.Context())
		reply(w, answer, err)
	}
}

// grants answers with a list that is written while it is read: as a whole, a million take
// more memory than all else.
func grants(d Daemon) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		out, before := json.NewEncoder(w), "["
		err := d.Grants(r.Context(), func(g *Grant) {
			// An error here is the client's leaving, which ends the context.
			_, _ = io.WriteString(w, before)
			_ = out.Encode(g)
			before = ","
		})
		switch {
		case err != nil && before == "[":
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case err != nil:
			panic(http.ErrAbortHandler) // the client sees that the list has no end
		case before == "[":
			_, _ = io.WriteString(w, "[]")
		default:
			_, _ = io.WriteString(w, "]")
		}
	}
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// An error here is the client's leaving.
	_ = json.NewEncoder(w).Encode(v)
}

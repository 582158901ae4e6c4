package lab_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// requireOpenSSL skips where no server has a TLS library that can be read.
func requireOpenSSL(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath(lab.OpenSSL)
	if err == nil {
		err = bpf.HaveUprobes()
	}
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip("TLS cannot be read here: ", err)
	}
}

func (w *world) status(t *testing.T) control.Status {
	t.Helper()
	s, err := control.NewClient(w.daemon.Socket).Status(t.Context())
	must(t, err)
	return s
}

// imaps starts an IMAPS server for one connection.
func (w *world) imaps(t *testing.T) {
	t.Helper()
	s, err := lab.StartIMAPS(w.Server, w.dir)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
}

// behindIMAPS starts the daemon anew, behind an IMAPS server.
func (w *world) behindIMAPS(t *testing.T) {
	t.Helper()
	must(t, w.daemon.Stop())
	w.imaps(t)
	settles(t, long, func() error { // it listens
		var sockets []byte
		err := w.Server.Do(func() (err error) {
			sockets, err = os.ReadFile("/proc/thread-self/net/tcp6")
			return err
		})
		if err != nil || !strings.Contains(string(sockets), fmt.Sprintf(":%04X ", lab.IMAPSPort)) {
			return errors.Join(err, errors.New("nobody listens yet"))
		}
		return nil
	})
	w.start(t)
}

// attached waits until the TLS of a new IMAPS server is read.
func (w *world) attached(t *testing.T) {
	t.Helper()
	port := fmt.Sprintf(":%d", lab.IMAPSPort)
	settles(t, long, func() error {
		servers := w.status(t).TLS.Servers
		for _, s := range servers {
			listens := slices.ContainsFunc(s.Listeners, func(l string) bool { return strings.HasSuffix(l, port) })
			if listens && s.TLS && s.Seen && s.Handshakes == 0 {
				return nil
			}
		}
		return fmt.Errorf("its TLS is not read: %+v", servers)
	})
}

func loginTLS(t *testing.T, h *lab.Host, password string, want bool) {
	t.Helper()
	answer, _, ok, err := h.LoginTLS(t.Context(), lab.IMAPSLogin(lab.Server4, password))
	if err != nil || ok != want {
		t.Fatalf("IMAPS login: %q, %v", answer, err)
	}
}

// TestLoginInTLS goes the whole way from a TLS library to the gate.
func TestLoginInTLS(t *testing.T) {
	requireOpenSSL(t)
	const wrong = "c4n4ry-Tr0ub4dor"
	w := newWorld(t, 30*time.Second, "")
	w.imaps(t)
	w.attached(t)
	loginTLS(t, w.Client4, wrong, false)
	settles(t, 5*time.Second, func() error {
		if n := w.status(t).Refused; n != 1 {
			return fmt.Errorf("%d refused logins are seen, want 1", n)
		}
		return nil
	})
	must(t, w.Client4.At(lab.Server4).Refused(t.Context()))

	w.imaps(t)
	w.attached(t)
	loginTLS(t, w.Client4, lab.Password, true)
	settles(t, 5*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))

	s := w.status(t)
	if s.TLS.Handshakes != 2 || s.TLS.Seen != 2 || s.TLS.Unseen != 0 || s.Tainted != 0 || s.Encrypted != 0 {
		t.Errorf("status %+v", s.TLS)
	}
	story := w.verb(t, "why", lab.Client4.String())
	if !strings.Contains(story, "may relay: alice logged in") || !strings.Contains(story, "TLS") {
		t.Errorf("why says %q", story)
	}
	shown := []string{story, w.verb(t, "status", "--json"), w.verb(t, "why", "--json", lab.Client4.String())}
	must(t, w.daemon.Stop())
	for _, text := range append(shown, w.daemon.Log()) {
		if strings.Contains(text, wrong) || strings.Contains(text, lab.Password) {
			t.Errorf("a password came out in %q", text)
		}
	}
}

// TestReadyMeansThatTLSIsRead: the first login behind the start counts.
func TestReadyMeansThatTLSIsRead(t *testing.T) {
	requireOpenSSL(t)
	w := newWorld(t, 30*time.Second, "")
	w.behindIMAPS(t)
	loginTLS(t, w.Client4, lab.Password, true)
	settles(t, 5*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
}

// TestTLSOff: then TLS ends the reading, and that is said.
func TestTLSOff(t *testing.T) {
	requireOpenSSL(t)
	w := newWorld(t, 30*time.Second, "[watch]\ntls = \"off\"\n")
	w.behindIMAPS(t)
	loginTLS(t, w.Client4, lab.Password, true)
	settles(t, 5*time.Second, func() error {
		if s := w.status(t); s.Encrypted == 0 || s.TLS.On || s.TLS.Handshakes != 0 || s.Logins != 0 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	must(t, w.Client4.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "why "+lab.Client4.String(), "went on in TLS, which was not read")())
}

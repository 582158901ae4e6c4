package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

// A socket at which nobody can be let in any more is made again.
func TestControlSocketThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	d := &daemon{log: slog.New(slog.DiscardHandler), hub: control.NewHub(), opts: Options{Config: &config.Config{Socket: path}}}
	var err error
	if d.socket, err = control.Listen(path); err != nil {
		t.Fatal(err)
	}
	if err := d.socket.UnixListener.Close(); err != nil { // accept(2) fails from now on
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.runSocket(ctx) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not go on")
		}
	}
	cancel()
	if err := errors.Join(<-ended, d.socket.Close()); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

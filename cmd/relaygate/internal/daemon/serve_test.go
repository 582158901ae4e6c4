//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

// goesOn runs a task, breaks what it waits for, and wants it to do its work again, or
// at least to live on, until it is stopped.
func goesOn(t *testing.T, task func(context.Context) error, fail func() error, again func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- task(ctx) }()
	if err := fail(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(5 * time.Second); !again(); {
		select {
		case err := <-ended:
			t.Fatalf("it ended, and the daemon with it: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("it does not go on")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopped: %v", err)
	}
}

func TestControlSocketThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	d := &daemon{log: slog.New(slog.DiscardHandler), hub: control.NewHub(), opts: Options{Config: &config.Config{Socket: path}}}
	var err error
	if d.socket, err = control.Listen(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.socket.Close() }()
	goesOn(t, d.runSocket, d.socket.UnixListener.Close, func() bool {
		c, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

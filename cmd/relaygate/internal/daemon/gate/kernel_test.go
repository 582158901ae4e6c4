package gate

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/nft"
)

// A watch that cannot be read, for want of memory say, is no reason for the gate to have
// nobody.
func TestWatchThatFails(t *testing.T) {
	bpftest.RequireRoot(t)
	open, err := nft.Open(nft.Config{Netns: bpftest.Namespace(t).FD()})
	must(t, err)
	defer open.Close()
	w, err := open.Watch()
	must(t, err)
	lines := &lineCount{}
	g := &Gate{log: slog.New(slog.NewTextHandler(lines, nil))}
	g.watch.Store(w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Watch(ctx) }()
	must(t, w.Close())
	for lines.n.Load() < 2 { // it is tried again
		select {
		case err := <-ended:
			t.Fatalf("it ended, and the daemon with it: %v", err)
		case <-time.After(watchPause / 10):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopped: %v", err)
	}
}

// lineCount counts lines.
type lineCount struct{ n atomic.Int64 }

func (c *lineCount) Write(line []byte) (int, error) { c.n.Add(1); return len(line), nil }

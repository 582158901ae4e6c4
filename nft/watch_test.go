package nft

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// watch runs a Watch that ends with the test.
func watch(t *testing.T, g *Gate) *Watch {
	t.Helper()
	w, err := g.Watch()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
		must(t, w.Close())
	})
	return w
}

func change(t *testing.T, w *Watch) Change {
	t.Helper()
	select {
	case c := <-w.Changes():
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no change within 10 s")
		return Change{}
	}
}

func TestWatchTellsOfAFlush(t *testing.T) {
	world := newWorld(t)
	serve(t, world.server, 25)
	g := openGate(t, filter(world.server))
	rebuild(t, g, minute(member4)...)
	w := watch(t, g)

	start := time.Now()
	commit(t, another(t, world.server), flushRuleset())
	got := change(t, w)
	told := time.Since(start)
	if err := g.Check(); !errors.Is(err, ErrTableGone) {
		t.Fatalf("got %v, want ErrTableGone", err)
	}
	rebuild(t, g, minute(member4)...)
	t.Logf("%s: told after %v, rebuilt after %v", got, told, time.Since(start))
	if told > 5*time.Second { // at once, but where the machine is busy
		t.Errorf("told after %v", told)
	}
	if got.PID == 0 || got.Process == "" || got.Members {
		t.Errorf("got %+v, want the name and number of this process", got)
	}
	world.expect(t, "stranger", strange4, server4, 25, false)
	world.expect(t, "member", member4, server4, 25, true)
}

// The Gate's own transactions are many: none may wake the Watch.
func TestWatchLeavesOutOwnTransactions(t *testing.T) {
	ns := bpftest.Namespace(t)
	g := openGate(t, filter(ns))
	w, err := g.Watch()
	must(t, err)
	defer w.Close()
	rebuild(t, g)
	must(t, g.Add(minute(member4)...))
	other := another(t, ns)
	// An element first: what follows in its datagram must not be missed.
	commit(t, other, append(
		memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, []member{{allow4, strange4, time.Hour, time.Hour}}),
		flushRuleset())...)
	first, err := w.conn.Receive()
	must(t, err)
	if got, want := first[0].Header.PID, other.PID(); got != want {
		t.Errorf("got a transaction of port %d, want %d", got, want)
	}
}

// A Watch that could not follow says so, and follows on.
func TestWatchOutlivesAFlood(t *testing.T) {
	ns := bpftest.Namespace(t)
	g := openGate(t, filter(ns))
	w, err := g.Watch()
	must(t, err)
	defer w.Close()
	if err := w.conn.SetReadBuffer(1); err != nil { // the least there is
		t.Fatal(err)
	}
	other := another(t, ns)
	for i := range 100 {
		commit(t, other, tableMessages(tableID{unix.NFPROTO_INET, fmt.Sprint("flood", i)})...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	if got := change(t, w); !got.Lost || !got.Members {
		t.Errorf("got %+v, want that some were lost", got)
	}
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for r := range w.Changes() {
			if r.PID != 0 {
				return
			}
		}
	}()
	for open := true; open; {
		commit(t, other, tableMessages(tableID{unix.NFPROTO_INET, "afterwards"})...)
		select {
		case <-seen:
			open = false
		default:
		}
	}
	cancel()
	must(t, <-done)
}

func TestWatchEndsWhenClosed(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	w, err := g.Watch()
	must(t, err)
	done := make(chan error)
	go func() { done <- w.Run(context.Background()) }()
	must(t, w.Close())
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

package control

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestWatchStreams(t *testing.T) {
	hub := NewHub()
	c := serve(t, &fakeDaemon{}, hub)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil { // until the watcher is there
			hub.Publish(time.Time{}, Event{Event: "grant", Client: "192.0.2.7"})
			runtime.Gosched()
		}
	}()
	got := ""
	err := c.Watch(ctx, func(line []byte) error {
		got = string(line)
		cancel()
		return nil
	})
	if err != nil || !strings.Contains(got, `"client":"192.0.2.7"`) {
		t.Errorf("watched %q, %v", got, err)
	}
}

// A daemon that dies says no more than that it has ended.
func TestWatchOfADaemonThatDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 1000))
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"))
		_ = c.Close()
	}()
	lines := 0
	err = NewClient(path).Watch(t.Context(), func([]byte) error { lines++; return nil })
	if lines != 1 || err == nil || err.Error() != "relaygate has ended" {
		t.Errorf("%d lines, then %v", lines, err)
	}
}

func TestSlowWatcherIsToldWhatItLost(t *testing.T) {
	hub := NewHub()
	w, ok := hub.add()
	if !ok {
		t.Fatal("no room for the first watcher")
	}
	for range watchQueue + 10 {
		hub.Publish(time.Time{}, Event{Event: "grant"})
	}
	for range watchQueue {
		<-w.lines
	}
	hub.Publish(time.Time{}, Event{Event: "renew"})
	var note Event
	if err := json.Unmarshal(<-w.lines, &note); err != nil || note.Event != "drop" || !strings.Contains(note.Reason, "10 events") {
		t.Errorf("note = %+v, %v, want a drop of 10", note, err)
	}
	if line := string(<-w.lines); !strings.Contains(line, "renew") {
		t.Errorf("after the note came %s", line)
	}
	if got := hub.Dropped(); got != 10 {
		t.Errorf("%d events counted as dropped, want 10", got)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	hub := NewHub()
	for range maxWatchers {
		if _, ok := hub.add(); !ok {
			t.Fatal("too few watchers")
		}
	}
	if _, ok := hub.add(); ok {
		t.Error("one watcher too many")
	}
}

package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// modeDaemon is a daemon without a grant.
type modeDaemon struct {
	control.Daemon
	status control.Status
}

func (d *modeDaemon) Status(context.Context) (control.Status, error)     { return d.status, nil }
func (d *modeDaemon) Grants(context.Context, func(*control.Grant)) error { return nil }

// Nobody is told that the port is closed while everybody may connect, and everybody why
// nobody is granted.
func TestListSaysThatNothingIsClosed(t *testing.T) {
	e, _, _ := testEnv()
	now, files := e.Now(), []control.File{{Path: "/etc/relayhosts"}}
	for _, tt := range []struct {
		mode   nft.Mode
		files  []control.File
		paused *control.Pause
		want   string
	}{
		{nft.Filter, nil, nil, "Nobody may relay: there is no grant."},
		{nft.Observe, files, nil, "Nobody may relay: there is no grant."},
		{nft.Observe, nil, nil, "Nothing is opened or closed: gate.mode is observe, and no file is written.\nNobody has a grant."},
		{nft.Filter, nil, &control.Pause{Since: control.Time{Time: now}, By: "root (uid 0)"}, "Paused:  just now by root (uid 0): nothing is granted.\nNobody may relay: there is no grant."},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := control.Listen(socket)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		d := &modeDaemon{status: control.Status{Gate: control.Gate{Mode: tt.mode.String()}, Files: tt.files, Paused: tt.paused}}
		ended := make(chan error)
		go func() { ended <- control.Serve(ctx, l, d, control.NewHub(), slog.New(slog.DiscardHandler)) }()
		e, out, errs := testEnv()
		if err := run(t.Context(), e, []string{"list", "--socket", socket}); err != nil || strings.TrimSpace(out.String()) != tt.want {
			t.Errorf("%s: %v, %q, %s, want %q", tt.mode, err, out, errs, tt.want)
		}
		cancel()
		<-ended
	}
}

// A terminal that knows no colour gets none.
func TestColourIsForTerminalsThatKnowIt(t *testing.T) {
	for _, tt := range []struct {
		terminal       bool
		noColour, term string
		want           bool
	}{
		{true, "", "xterm", true},
		{true, "1", "xterm", false},
		{true, "", "dumb", false},
		{false, "", "xterm", false},
	} {
		e, _, _ := testEnv()
		e.OutTerminal = tt.terminal
		e.Getenv = func(name string) string { return map[string]string{"NO_COLOR": tt.noColour, "TERM": tt.term}[name] }
		if got := colour(e, red, "x") != "x"; got != tt.want {
			t.Errorf("%+v: coloured: %v", tt, got)
		}
	}
}

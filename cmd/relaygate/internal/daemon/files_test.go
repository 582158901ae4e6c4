//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"relaygate/authz/grant"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/state"
	"relaygate/nft"
)

func TestFilesCountWritesAndErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFiles(&config.Config{Relayhosts: filepath.Join(dir, "relayhosts")}, slog.New(slog.DiscardHandler))
	f.entries = func(context.Context, func(relayhosts.Entry, grant.Source)) error { return nil }
	f.write(t.Context())
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.write(t.Context())
	f.write(t.Context())
	if s := f.status(); len(s) != 1 || s[0].Writes != 1 || s[0].Errors != 2 || s[0].Error == "" {
		t.Errorf("%+v, want one write and two errors", s)
	}
}

// What an earlier run left is gone when the daemon says that it is ready: the mail
// server that waits for it reads the file then.
func TestFilesAreWrittenBeforeReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	if err := os.WriteFile(path, []byte("192.0.2.7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := newFiles(&config.Config{Relayhosts: path}, slog.New(slog.DiscardHandler))
	f.entries = func(context.Context, func(relayhosts.Entry, grant.Source)) error { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	err := f.run(ctx, func() {
		if held, err := os.ReadFile(path); err != nil || len(held) > 0 {
			t.Errorf("it holds %q, %v, when all is ready", held, err)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}

// Where nothing starts, the lines of an earlier run go, and nobody else's.
func TestFailedStartEmptiesTheFiles(t *testing.T) {
	failed := errors.New("the disk is full")
	for _, tt := range []struct {
		name  string
		why   error
		exit  config.OnExit
		ours  bool
		stays bool
	}{
		{"ours", failed, config.ExitExpire, true, false},
		{"kept", failed, config.ExitKeep, true, true},
		{"before the first start", failed, config.ExitExpire, false, true},
		{"another relaygate has the state", fmt.Errorf("open: %w", state.ErrLocked), config.ExitExpire, true, true},
		{"another relaygate has the gate", fmt.Errorf("open: %w", nft.ErrClaimed), config.ExitExpire, true, true},
	} {
		path := filepath.Join(t.TempDir(), "relayhosts")
		files := []string{path}
		if tt.ours {
			files = append(files, path+relayhosts.BackupSuffix)
		}
		for _, file := range files {
			if err := os.WriteFile(file, []byte("192.0.2.7\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cfg := &config.Config{Relayhosts: path, Gate: config.Gate{OnExit: tt.exit}}
		d := &daemon{opts: Options{Config: cfg}, log: slog.New(slog.DiscardHandler)}
		if err := d.forsake(tt.why); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if held, err := os.ReadFile(path); err != nil || len(held) > 0 != tt.stays {
			t.Errorf("%s: the file holds %q, %v", tt.name, held, err)
		}
	}
}

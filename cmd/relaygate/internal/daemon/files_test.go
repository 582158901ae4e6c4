//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"relaygate/authz/grant"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
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

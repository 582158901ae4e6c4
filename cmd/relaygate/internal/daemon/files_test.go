package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/state"
	"relaygate/cmd/relaygate/internal/story"
	"relaygate/nft"
)

func TestFilesCountWritesAndErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	must(t, os.Mkdir(dir, 0o755))
	f := newFiles(&config.Config{Relayhosts: filepath.Join(dir, "relayhosts")}, slog.New(slog.DiscardHandler))
	f.entries = func(context.Context, func(relayhosts.Entry)) error { return nil }
	f.write(t.Context())
	must(t, os.RemoveAll(dir))
	f.write(t.Context())
	f.write(t.Context())
	if s := f.status(); len(s) != 1 || s[0].Writes != 1 || s[0].Errors != 2 || s[0].Error == "" {
		t.Errorf("%+v, want one write and two errors", s)
	}
}

// A file system that hangs is told, for as long as it does.
func TestHangingFilesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(&config.Config{Relayhosts: filepath.Join(t.TempDir(), "relayhosts")}, slog.New(slog.DiscardHandler))
		hang := make(chan struct{})
		f.entries = func(context.Context, func(relayhosts.Entry)) error { <-hang; return nil }
		ended := make(chan error)
		go func() { ended <- f.write(t.Context()) }()
		<-time.After(keeper.HangsAfter - time.Second)
		if words := f.hangs(time.Now()); words != "" {
			t.Errorf("too early: %s", words)
		}
		<-time.After(time.Minute)
		if words := f.hangs(time.Now()); !strings.Contains(words, "hangs") {
			t.Errorf("it says %q", words)
		}
		close(hang)
		must(t, <-ended)
		if words := f.hangs(time.Now()); words != "" {
			t.Errorf("it hangs no more: %s", words)
		}
	})
}

// The end does not wait for it: the gate is to be closed then, say.
func TestEndWaitsForNoFileSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(&config.Config{Relayhosts: filepath.Join(t.TempDir(), "relayhosts")}, slog.New(slog.DiscardHandler))
		hang := make(chan struct{})
		f.entries = func(context.Context, func(relayhosts.Entry)) error { <-hang; return nil }
		f.static = func() []netip.Prefix { return nil }
		f.keep.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		d := &daemon{log: f.log, gate: new(gate.Gate), hub: control.NewHub()}
		other := func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }
		began := time.Now()
		err := d.tasks(ctx, []task{{"files", mayHang(f.run)}, {"other", mayHang(other)}})
		if took := time.Since(began) - time.Minute; took > endWithin || err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("%v later it ended with %v", took, err)
		}
		must(t, f.remain(grant.New(grant.Config{})))
		close(hang)
		synctest.Wait() // the folder goes
	})
}

// hangingTap cannot be closed, as where a process hangs that has a library it is attached to.
type hangingTap struct {
	livetap.Tap
	hang <-chan struct{}
}

func (h hangingTap) Close() error { <-h.hang; return nil }

// The end waits for no process, and the state is written all the same.
func TestEndWaitsForNoProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		hang := make(chan struct{})
		d := &daemon{keeper: openKeeper(t, path), tap: hangingTap{hang: hang}}
		began, ended := time.Now(), make(chan error, 1)
		go func() { ended <- d.close() }()
		synctest.Wait()
		must(t, openKeeper(t, path).Close(nil, nil)) // nobody holds it any more
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("it ends with %v", err)
		}
		if took := time.Since(began); took > endWithin {
			t.Errorf("it took %v", took)
		}
		close(hang)
	})
}

// What hangs when it begins keeps nothing else from being ready, and is so once.
func TestReadinessWaitsForNoFileSystem(t *testing.T) {
	for _, takes := range []time.Duration{time.Second, readyWithin - 1, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			began, ready := time.Now(), 0
			run := func(_ context.Context, ready func()) error { time.Sleep(takes); ready(); return nil }
			err := mayHang(run)(t.Context(), func() {
				if ready++; time.Since(began) > readyWithin {
					t.Errorf("ready after %v", time.Since(began))
				}
			})
			if ready != 1 || err != nil {
				t.Errorf("%v: ready %d times, %v", takes, ready, err)
			}
		})
	}
}

// What an earlier run left is gone when the daemon says that it is ready: the mail
// server that waits for it reads the file then.
func TestFilesAreWrittenBeforeReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	must(t, os.WriteFile(path, []byte("192.0.2.7\n"), 0o644))
	f := newFiles(&config.Config{Relayhosts: path}, slog.New(slog.DiscardHandler))
	f.entries = func(context.Context, func(relayhosts.Entry)) error { return nil }
	f.static = func() []netip.Prefix { return nil }
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

// What closed in the last moment is in no file when the daemon has ended: the line
// would stay for ever.
func TestFilesAreLeftAsThingsAre(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("198.51.100.7/32")
	for _, tt := range []struct {
		exit config.OnExit
		want string
	}{
		{config.ExitExpire, "198.51.100.7\n"},
		{config.ExitKeep, "198.51.100.7\n203.0.113.9\n"},
	} {
		path := filepath.Join(t.TempDir(), "relayhosts")
		f := newFiles(&config.Config{Relayhosts: path, Gate: config.Gate{OnExit: tt.exit}}, slog.New(slog.DiscardHandler))
		table, always := grant.New(grant.Config{}), []netip.Prefix{a, b}
		f.static = func() []netip.Prefix { return always }
		f.entries = func(_ context.Context, visit func(relayhosts.Entry)) error {
			visit(relayhosts.Entry{Prefix: a})
			visit(relayhosts.Entry{Prefix: b})
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := f.run(ctx, func() {
			always = always[1:] // a is denied, and the files are not written any more
			policy, err := authz.NewPolicy(authz.Host{}, authz.Rules{Always: always})
			must(t, err)
			table.SetPolicy(now, policy)
			table.Manual(now, netip.MustParsePrefix("203.0.113.9/32"), testLifetime, "root", "")
			cancel()
		})
		must(t, errors.Join(err, f.remain(table)))
		if held, err := os.ReadFile(path); err != nil || string(held) != tt.want {
			t.Errorf("on exit %d: the file holds %q, %v, want %q", tt.exit, held, err, tt.want)
		}
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
			must(t, os.WriteFile(file, []byte("192.0.2.7\n"), 0o644))
		}
		cfg := &config.Config{Relayhosts: path, Gate: config.Gate{OnExit: tt.exit}}
		d := &daemon{opts: Options{Config: cfg}, log: slog.New(slog.DiscardHandler)}
		if err := d.forsake(d.opts.Config, tt.why); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if held, err := os.ReadFile(path); err != nil || len(held) > 0 != tt.stays {
			t.Errorf("%s: the file holds %q, %v", tt.name, held, err)
		}
	}
}

// Where one start after the other is killed, and so none takes out whose time is over,
// nobody stays in the files.
func TestStartsThatAreKilledEmptyTheFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		over  func(*daemon) error // what came of the start before
		exit  config.OnExit
		stays bool
	}{
		{"killed", func(*daemon) error { return nil }, config.ExitExpire, false},
		{"killed, and all is to be kept", func(*daemon) error { return nil }, config.ExitKeep, true},
		{"ready", (*daemon).begun, config.ExitExpire, true},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "relayhosts")
		for _, file := range []string{path, path + relayhosts.BackupSuffix} {
			must(t, os.WriteFile(file, []byte("192.0.2.7\n"), 0o644))
		}
		cfg := &config.Config{Relayhosts: path, StatePath: filepath.Join(dir, "state.db"), Gate: config.Gate{OnExit: tt.exit}}
		begin := func() *daemon {
			d := &daemon{opts: Options{Config: cfg}, log: slog.New(slog.DiscardHandler)}
			if err := d.beginning(); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			return d
		}
		err := tt.over(begin())
		if held, read := os.ReadFile(path); err != nil || read != nil || len(held) == 0 {
			t.Errorf("%s: at the first start the file holds %q, %v, %v", tt.name, held, read, err)
		}
		begin()
		if held, err := os.ReadFile(path); err != nil || len(held) > 0 != tt.stays {
			t.Errorf("%s: the file holds %q, %v", tt.name, held, err)
		}
	}
}

// What cannot be noted may have been so before: nobody stays either. A note that is a pipe
// is not waited for.
func TestStartThatCannotBeNotedEmptiesTheFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "relayhosts")
	pipe := filepath.Join(dir, "pipe.db")
	must(t, errors.Join(os.WriteFile(path+relayhosts.BackupSuffix, nil, 0o644), unix.Mkfifo(pipe+startingSuffix, 0o600)))
	for _, statePath := range []string{filepath.Join(dir, "missing", "state.db"), pipe} {
		must(t, os.WriteFile(path, []byte("192.0.2.7\n"), 0o644))
		d := &daemon{opts: Options{Config: &config.Config{Relayhosts: path, StatePath: statePath}}, log: slog.New(slog.DiscardHandler)}
		if err := errors.Join(d.beginning(), d.begun()); err != nil {
			t.Error(err)
		}
		if held, err := os.ReadFile(path); err != nil || len(held) > 0 {
			t.Errorf("%s: the file holds %q, %v", statePath, held, err)
		}
	}
}

// While a start hangs nobody takes out whose time is over.
func TestStartThatHangsEmptiesTheFiles(t *testing.T) {
	synctest.Test(t, testStartThatHangsEmptiesTheFiles)
}

func testStartThatHangsEmptiesTheFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	for _, file := range []string{path, path + relayhosts.BackupSuffix} {
		must(t, os.WriteFile(file, []byte("192.0.2.7\n"), 0o644))
	}
	d := &daemon{opts: Options{Config: &config.Config{Relayhosts: path}}, log: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct {
		takes time.Duration
		stays bool
	}{{readyWithin - time.Second, true}, {readyWithin + time.Second, false}} {
		err := d.soon(func() error {
			time.Sleep(tt.takes)
			synctest.Wait()
			return nil
		})
		if held, read := os.ReadFile(path); err != nil || read != nil || len(held) > 0 != tt.stays {
			t.Errorf("behind a start of %v the file holds %q, %v, %v", tt.takes, held, read, err)
		}
	}
}

// Who asks what the files say waits for no file system that hangs, and one look alone does.
func TestLookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(&config.Config{}, slog.New(slog.DiscardHandler))
		hangs, begun := make(chan struct{}), 0
		read := func() (int, error) { begun++; <-hangs; return 7, nil }
		for range 3 {
			began := time.Now()
			if got, err := look(f, read); !errors.Is(err, story.ErrHangs) || time.Since(began) != story.ReadWithin {
				t.Errorf("after %v: %d, %v", time.Since(began), got, err)
			}
		}
		close(hangs)
		synctest.Wait()
		if begun != 1 {
			t.Errorf("%d looks hung", begun)
		}
		if got, err := look(f, read); got != 7 || err != nil {
			t.Errorf("behind that: %d, %v", got, err)
		}
	})
}

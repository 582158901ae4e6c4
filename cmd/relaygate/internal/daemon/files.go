package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/message"
)

// files keeps the compatibility files equal to the grants.
type files struct {
	writer  *relayhosts.Writer
	hosts   string // the path of relayhosts
	log     *slog.Logger
	entries func(context.Context, func(relayhosts.Entry)) error // visits all grants
	static  func() []netip.Prefix                               // the always rules in force
	found   func(context.Context, *relayhosts.Foreign, bool)    // tells the owner what others wrote; true: while we ran
	keep    atomic.Bool                                         // lines stay when the daemon ends (on_exit = "keep")
	marked  atomic.Bool                                         // something changed since the last snapshot
	began   atomic.Int64                                        // when the write began that goes on, Unix ns; 0 if none does
	dirty   chan struct{}
	flushes chan chan error
	looking chan struct{} // see look

	mu    sync.Mutex
	stats []control.File
}

func newFiles(cfg *config.Config, log *slog.Logger) *files {
	f := &files{
		writer: relayhosts.NewWriter(relayhosts.Config{Hosts: cfg.Relayhosts, Users: cfg.UsersFile, Dialect: cfg.Dialect}),
		hosts:  cfg.Relayhosts, log: log, dirty: make(chan struct{}, 1), flushes: make(chan chan error),
		looking: make(chan struct{}, 1),
	}
	f.keep.Store(cfg.Gate.OnExit == config.ExitKeep)
	for _, path := range cfg.Files() {
		f.stats = append(f.stats, control.File{Path: path})
	}
	return f
}

// entries visits what the files say, with the users if there is a file of them.
func (o *owner) entries(users bool) func(context.Context, func(relayhosts.Entry)) error {
	if users {
		return func(ctx context.Context, visit func(relayhosts.Entry)) error {
			return o.parts(ctx, func(g *grant.Grant) { visit(relayhosts.EntryOf(g)) })
		}
	}
	return func(ctx context.Context, visit func(relayhosts.Entry)) error {
		return o.prefixes(ctx, func(p *netip.Prefix) { visit(relayhosts.Entry{Prefix: *p}) })
	}
}

// changed says that the grants changed. It never waits, and wakes nobody for
// what will be written anyway.
func (f *files) changed() {
	if len(f.stats) == 0 || f.marked.Swap(true) {
		return
	}
	message.Wake(f.dirty)
}

// lookEvery is how often the files are compared with what was written.
const lookEvery = 2 * time.Second

func (f *files) run(ctx context.Context, ready func()) error {
	if len(f.stats) > 0 { // what an earlier run left is gone before a mail server starts behind us
		_ = f.write(ctx)
	}
	ready()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		var due <-chan time.Time
		if at, ok := f.writer.Due(); ok {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return f.leave()
		case <-f.dirty:
			f.writer.Changed()
		case now := <-look.C:
			f.writer.Look(now)
		case done := <-f.flushes:
			var err error
			if due != nil || f.marked.Load() {
				err = f.write(ctx)
			}
			done <- err
		case <-due:
			_ = f.write(ctx) // told by the log and by status
		}
	}
}

// flush returns when the files have been written.
func (f *files) flush(ctx context.Context) error {
	done := make(chan error, 1)
	return message.Ask(ctx, f.flushes, done, done)
}

func (f *files) write(ctx context.Context) error {
	f.began.Store(time.Now().UnixNano())
	defer f.began.Store(0)
	f.marked.Store(false)
	var all []relayhosts.Entry
	err := f.entries(ctx, func(entry relayhosts.Entry) { all = append(all, entry) })
	if err != nil {
		return err // the daemon ends
	}
	now := time.Now()
	report, err := f.writer.Write(now, all)
	if err != nil {
		f.log.Error("the files could not be written", "error", err)
	}
	f.tellOthers(ctx, &report)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.stats {
		f.stats[i].Others = f.others(f.stats[i].Path, f.stats[i].Others)
		if slices.ContainsFunc(report.Repaired, func(r relayhosts.Foreign) bool { return r.Path == f.stats[i].Path }) {
			f.stats[i].Changed++
			f.stats[i].ChangedAt = control.Time{Time: now}
		}
		if failed := report.Failed[f.stats[i].Path]; failed != nil {
			f.stats[i].Error = failed.Error()
			f.stats[i].Errors++
			continue
		}
		f.stats[i].Written, f.stats[i].Error = control.Time{Time: now}, ""
		f.stats[i].Writes++
	}
	return err
}

// others says who else may write a file, and once in the log.
func (f *files) others(path, before string) string {
	err := relayhosts.Others(path)
	if err == nil {
		return ""
	}
	if err.Error() != before {
		f.log.Warn("others may let anybody relay", "error", err)
	}
	return err.Error()
}

// leave writes what may stay when the daemon ends: always rules alone, if not all is to
// be kept. The gate's elements run out by themselves; lines of a file do not.
func (f *files) leave() error {
	if f.keep.Load() {
		return nil
	}
	var stay []relayhosts.Entry
	for _, p := range f.static() {
		stay = append(stay, relayhosts.Entry{Prefix: p, Users: []string{relayhosts.Static}})
	}
	return f.last(stay)
}

// remain writes, when the owner has ended, what is to be kept: what was revoked in the
// last moment may stand there still.
func (f *files) remain(t *grant.Table) error {
	if !f.keep.Load() || f.began.Load() != 0 { // it hangs, as its task has said
		return nil
	}
	var stay []relayhosts.Entry
	for g := range t.All() {
		stay = append(stay, relayhosts.EntryOf(&g))
	}
	return f.last(stay)
}

func (f *files) last(stay []relayhosts.Entry) error {
	if _, err := f.writer.Write(time.Now(), stay); err != nil {
		return fmt.Errorf("take the grants out of the files: %w", err)
	}
	return nil
}

// hangs says in words that a file system lets nothing be written, "" if it does.
func (f *files) hangs(now time.Time) string {
	began := f.began.Load()
	if began == 0 || now.Sub(time.Unix(0, began)) < keeper.HangsAfter {
		return ""
	}
	return "the files for mail servers are being written for " + authz.Span(now.Sub(time.Unix(0, began))) + ": their file system hangs, and what they say is older"
}

func (f *files) status() []control.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]control.File{}, f.stats...)
}

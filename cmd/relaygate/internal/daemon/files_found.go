package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/story"
)

// tellOthers tells what a write found in the files that is not ours.
func (f *files) tellOthers(ctx context.Context, report *relayhosts.Report) {
	tell := func(foreign *relayhosts.Foreign, words string, changed bool) {
		about := []any{"path", foreign.Path}
		if foreign.Count > 0 {
			about = append(about, "lines", foreign.Count, "first", authz.Quote(foreign.Lines[0]))
		}
		if foreign.Backup != "" {
			about = append(about, "copy", foreign.Backup)
		}
		f.log.Log(ctx, slog.LevelWarn, words, about...)
		if foreign.Backup == "" && len(foreign.Lines) > 0 && f.found != nil { // the copy explains itself
			f.found(ctx, foreign, changed)
		}
	}
	for i := range report.Repaired {
		tell(&report.Repaired[i], "somebody else changed the file: it is written again", true)
	}
	for i := range report.Foreign {
		words := "the file held lines that are not relaygate's: see the copy"
		if report.Foreign[i].Backup == "" {
			words = "the file held lines of an earlier run, or of somebody else, which are gone"
		}
		tell(&report.Foreign[i], words, false)
	}
}

// found notes in the journal, and tells watchers, whom a file let in that relaygate
// had not written there. It runs in the owner's goroutine.
func (o *owner) found(now time.Time, foreign *relayhosts.Foreign, changed bool) {
	for _, line := range foreign.Lines {
		p, ok := relayhosts.Subject(line)
		// What a killed run left has a story already.
		if !ok || !changed && len(o.engine.Evidence().Story(p.Addr(), now)) > 0 {
			continue
		}
		when := "while relaygate ran, written by somebody else"
		if !changed {
			when = "when relaygate started, written by somebody else or for an always rule that is no more"
		}
		o.others(now, authz.EventFile, p, "was in "+foreign.Path+" "+when+", and was taken out: “"+authz.QuoteWords(line)+"”")
	}
}

// others notes what somebody else did for an address.
func (o *owner) others(now time.Time, kind authz.EventKind, p netip.Prefix, reason string) {
	o.note(now, &authz.Event{Kind: kind, Prefix: p, Reason: reason}, kind.String())
}

// before is what the files named before the first start.
func (f *files) before(paths []string, a netip.Addr) ([]authz.Event, error) {
	return look(f, func() ([]authz.Event, error) { return story.Before(a, paths...) })
}

// naming says whether relayhosts names an address that has no grant, "" if not: where it
// cannot be written, or was changed a moment ago, or is another program's, it opens all the
// same.
func (f *files) naming(a netip.Addr) string {
	if f.hosts == "" {
		words, _ := look(f, func() (string, error) { return story.Foreign(story.Usual, a), nil })
		return words
	}
	for _, s := range f.status() {
		if s.Path != f.hosts {
			continue
		}
		line, err := look(f, func() (*relayhosts.Line, error) { return relayhosts.Now(s.Path, a) })
		switch {
		case err != nil:
			return fmt.Sprintf("whether %s names it cannot be told: %v", s.Path, err)
		case line != nil && s.Error != "":
			return fmt.Sprintf("%s names it, and cannot be written: %s", s.Path, s.Error)
		case line != nil:
			return fmt.Sprintf("%s names it still, and is written again within seconds", s.Path)
		}
	}
	return ""
}

// look reads the files. While their file system hangs one look alone does so, too: each
// holds a thread.
func look[T any](f *files, read func() (T, error)) (answer T, err error) {
	select {
	case f.looking <- struct{}{}:
	case <-time.After(story.ReadWithin):
		return answer, story.ErrHangs
	}
	return story.Soon(func() (T, error) {
		defer func() { <-f.looking }()
		return read()
	})
}

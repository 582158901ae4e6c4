package livetap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture"
	"relaygate/capture/tlstap"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// TLS is what follows the TLS libraries of the mail servers.
type TLS struct {
	finder   *tlstap.Finder // nil where TLS is not read
	programs *bpf.Tap
	// why says why TLS is not read, "" where that is as configured.
	why string
	log *slog.Logger
	hub *control.Hub
}

// OpenTLS prepares to read TLS where that can be had. What stands in the way is
// said, and no reason not to start: clear text is read all the same. What may pass, as
// want of memory does, the finder says of the servers, and tries again.
func OpenTLS(cfg *config.Config, tap Tap, trust *Trust, log *slog.Logger, hub *control.Hub) (*TLS, error) {
	t := &TLS{log: log, hub: hub}
	if !cfg.TLS {
		return t, nil
	}
	ring, ok := tap.(*ringTap)
	switch {
	case cfg.Inside():
		t.why = "the TLS libraries of mail servers behind this host are out of sight"
	case !ok:
		t.why = "packets of interfaces do not show which process a connection belongs to"
	default:
		t.why = forGood(bpf.HaveUprobes(), bpf.InitialPIDs())
	}
	if t.why != "" {
		log.Warn("logins in TLS are not seen", "reason", t.why)
		return t, nil
	}
	t.programs = ring.programs
	var err error
	t.finder, err = tlstap.New(tlstap.Options{Tap: tlstap.KernelTap{Tap: ring.programs}, Tables: trust.tables, Log: log})
	if err != nil {
		return nil, fmt.Errorf("prepare to read TLS: %w", err)
	}
	return t, nil
}

// forGood says why TLS can never be read here, by what was found of uprobes and of
// processes' numbers; "" if it can, or may come to be.
func forGood(uprobes, numbers error) string {
	if !bpf.Lacks(uprobes) {
		uprobes = nil
	}
	if err := errors.Join(uprobes, numbers); err != nil {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}

// On says whether TLS is read.
func (t *TLS) On() bool { return t.finder != nil }

// Follow has the engine read what the libraries show, if they are followed.
func (t *TLS) Follow(e *engine.Engine) {
	if t.finder != nil {
		e.FollowTLS(func(c authz.Conn) string { return printable(t.finder.Explain(c)) })
	}
}

// printable escapes what could act on a terminal: whoever starts a process
// chooses its name and the paths that it maps.
func printable(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// Run follows servers and libraries. It is ready when those that run already are
// watched.
func (t *TLS) Run(ctx context.Context, ready func()) error {
	if t.finder == nil {
		ready()
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.finder.Run(ctx) })
	g.Go(func() error {
		select {
		case <-t.finder.Looked():
		case <-ctx.Done():
			return nil
		}
		ready()
		t.report(ctx)
		return nil
	})
	return g.Wait()
}

// reportEvery is how often it is looked whether a server's TLS came in sight or
// went out of it.
const reportEvery = 2 * time.Second

// report tells the log and the watchers what changes in the coverage.
func (t *TLS) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	told := make(map[server]string) // why it is not seen, "" if it is
	for {
		now := make(map[server]string)
		for _, s := range t.finder.Servers() {
			who := server{s.Name, s.PID}
			before, known := told[who]
			if known || encrypts(&s) {
				now[who] = s.Why
			}
			if encrypts(&s) && (!known || before != s.Why) {
				t.tell(&s)
			}
		}
		told = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// server is one of the servers that are followed.
type server struct {
	name string
	pid  int
}

// tell says whether a server's TLS is read.
func (t *TLS) tell(s *tlstap.Server) {
	text := printable(s.String())
	if s.Seen() {
		t.log.Info("TLS is read", "server", text)
	} else {
		t.log.Warn("TLS is not read", "server", text)
	}
	t.hub.Tell(time.Now(), "coverage", text)
}

// encrypts reports whether a server is known to speak TLS, so that it matters
// whether that is read.
func encrypts(s *tlstap.Server) bool {
	if s.Handshakes > 0 {
		return true
	}
	for _, l := range s.Libraries {
		if len(l.Users) > 0 { // others are watched in advance
			return true
		}
	}
	for _, l := range s.Listeners {
		if config.Service(l.Port(), authz.IMAP).ImplicitTLS {
			return true
		}
	}
	return false
}

// Believe judges whether the process that called a TLS library may speak for
// the connection.
func (t *TLS) Believe(e *engine.Engine, ev *capture.Event) {
	ev.Trusted = false
	if conn, ok := e.Conn(ev.Conn.Cookie); ok && t.finder != nil {
		ev.Trusted, ev.Plain.Stranger, ev.Reason = t.finder.Believe(conn, ev.Plain.Process, ev.Plain.Owner)
	}
}

// Judged counts per server what the engine said of its connections.
func (t *TLS) Judged(list []engine.Coverage) {
	for _, c := range list {
		t.finder.Judged(c.Conn, c.Seen)
	}
}

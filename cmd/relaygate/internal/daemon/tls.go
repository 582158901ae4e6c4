//go:build linux

package daemon

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

// tlsTap is what follows the TLS libraries of the mail servers.
type tlsTap struct {
	finder   *tlstap.Finder // nil where TLS is not read
	programs *bpf.Tap
	// why says why TLS is not read, "" where that is as configured.
	why string
	log *slog.Logger
	hub *control.Hub
}

// openTLS prepares to read TLS where that can be had. What stands in the way is
// said, and no reason not to start: clear text is read all the same.
func openTLS(cfg *config.Config, tap tap, trust *trust, log *slog.Logger, hub *control.Hub) (*tlsTap, error) {
	t := &tlsTap{log: log, hub: hub}
	if !cfg.TLS {
		return t, nil
	}
	ring, ok := tap.(*ringTap)
	if cfg.Inside() {
		t.why = "the TLS libraries of mail servers behind this host are out of sight"
	} else if !ok {
		t.why = "packets of interfaces do not show which process a connection belongs to"
	} else if err := errors.Join(bpf.HaveUprobes(), bpf.InitialPIDs()); err != nil {
		t.why = strings.ReplaceAll(err.Error(), "\n", "; ")
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

// follow has the engine read what the libraries show, if they are followed.
func (t *tlsTap) follow(e *engine.Engine) {
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

// run follows servers and libraries. It is ready when those that run already are
// watched.
func (t *tlsTap) run(ctx context.Context, ready func()) error {
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
func (t *tlsTap) report(ctx context.Context) {
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
func (t *tlsTap) tell(s *tlstap.Server) {
	text := printable(s.String())
	if s.Seen {
		t.log.Info("TLS is read", "server", text)
	} else {
		t.log.Warn("TLS is not read", "server", text)
	}
	now := time.Now()
	t.hub.Publish(now, control.Event{Event: "coverage", Time: control.Time{Time: now}, Reason: text})
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

// believe judges whether the process that called a TLS library may speak for
// the connection.
func (t *tlsTap) believe(e *engine.Engine, ev *capture.Event) {
	ev.Trusted = false
	if conn, ok := e.Conn(ev.Conn.Cookie); ok && t.finder != nil {
		ev.Trusted, ev.Plain.Stranger, ev.Reason = t.finder.Believe(conn, ev.Plain.Process, ev.Plain.Owner)
	}
}

// judged counts per server what the engine said of its connections.
func (t *tlsTap) judged(list []engine.Coverage) {
	for _, c := range list {
		t.finder.Judged(c.Conn, c.Seen)
	}
}

// status adds what is known of the servers.
func (t *tlsTap) status(s *control.Status) {
	s.TLS.On, s.TLS.Why, s.TLS.Servers = t.finder != nil, t.why, []control.TLSServer{}
	if t.why != "" {
		s.Problems = append(s.Problems, "logins in TLS are not seen: "+t.why)
	}
	if t.finder == nil {
		return
	}
	t.count(s)
	servers := t.finder.Servers()
	s.TLS.Servers = newTLSServers(servers)
	if s.TLS.Lacks = unseen(servers); s.TLS.Lacks != "" {
		s.Problems = append(s.Problems, s.TLS.Lacks)
	}
}

// count adds what the programs on the libraries have counted.
func (t *tlsTap) count(s *control.Status) {
	c, err := t.programs.TLSCounters()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
		return
	}
	s.TLS.Calls = c.Plain
	for name, n := range map[string]uint64{
		"tls: handshakes without room in the kernel's table":             c.RandomsFull,
		"tls: connections in doubt, two with one handshake":              c.SameRandom,
		"tls: connections in doubt, two handshakes":                      c.TwoHellos,
		"tls: connections in doubt, begun before their server was known": c.Late,
		"tls: connections in doubt, too much said or the ring full":      c.PlainLost,
		"tls: calls that said more than a record holds":                  c.PlainTruncated,
		"tls: calls without room":                                        c.CallsFull,
		"tls: calls whose end was not seen":                              c.Unseen,
		"tls: calls on what could not be read":                           c.Unread,
	} {
		s.Drops[name] = n
	}
}

// share adds who else uses the servers' libraries, which costs more to find out.
func (t *tlsTap) share(s *control.Status) {
	if t.finder != nil {
		s.TLS.Servers = newTLSServers(t.finder.Coverage())
	}
}

// unseen says which servers' TLS is not read, in words; "" if all are.
func unseen(servers []tlstap.Server) string {
	all, seen := 0, 0
	who := make(map[string][]string) // by why
	var whys []string
	for i := range servers {
		s := &servers[i]
		if !encrypts(s) {
			continue
		}
		all++
		if s.Seen {
			seen++
			continue
		}
		if who[s.Why] == nil {
			whys = append(whys, s.Why)
		}
		who[s.Why] = append(who[s.Why], printable(s.Who()))
	}
	if seen == all {
		return ""
	}
	words := fmt.Sprintf("%d of %d TLS servers %s seen", seen, all, isAre(seen))
	for _, why := range whys {
		words += fmt.Sprintf("; %s %s not, because %s", strings.Join(who[why], " and "), isAre(len(who[why])), printable(why))
	}
	return words
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func newTLSServers(servers []tlstap.Server) []control.TLSServer {
	out := make([]control.TLSServer, len(servers))
	for i := range servers {
		out[i] = newTLSServer(&servers[i])
	}
	return out
}

func newTLSServer(s *tlstap.Server) control.TLSServer {
	out := control.TLSServer{
		Name: control.Text(s.Name), PID: s.PID, Listeners: []string{}, Processes: s.Processes,
		TLS: encrypts(s), Seen: s.Seen, Words: control.Text(s.String()),
		Handshakes: s.Handshakes, Read: s.Read, Libraries: []control.TLSLibrary{},
	}
	for _, l := range s.Listeners {
		out.Listeners = append(out.Listeners, l.String())
	}
	for _, l := range s.Libraries {
		out.Libraries = append(out.Libraries, control.TLSLibrary{
			Path: control.Text(l.Path), Users: texts(l.Users), Others: texts(l.Others),
			Attached: l.Attached, Why: control.Text(l.Why),
		})
	}
	return out
}

func texts(list []string) []control.Text {
	out := make([]control.Text, len(list))
	for i, s := range list {
		out[i] = control.Text(s)
	}
	return out
}

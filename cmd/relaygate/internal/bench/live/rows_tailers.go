package live

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// The logins that are measured, as they come to a small server: all programs are
// at rest in between. (fail2ban looks more often while there is much to do.)
// Tailers look every so many seconds, so that the gap must not be a whole one.
const (
	tailedLogins = 20
	tailedGap    = 1100 * time.Millisecond
	tailedLimit  = 30 * time.Second // behind the last login
)

// tailers measures from the positive answer leaving the server to the client's
// element, of the daemon and of programs that tail the mail server's log, in
// turn and with the same instruments. The log is written in all turns, before
// each answer.
func (m *measure) tailers(ctx context.Context) {
	if !m.Full {
		return
	}
	m.withObserver(func(o *observer) {
		var own time.Duration
		m.logged(func(string) {
			m.withAgent(ctx, func(*lab.Daemon) { own = m.tailed(ctx, o) })
		})
		const what = "answer leaves → element is there, p50: "
		m.Tell(bench.Told(what+"relaygate", micro(own), "µs", fmt.Sprintf("%d logins, %v apart", tailedLogins, tailedGap)))
		for _, t := range allTailers {
			if p := t.missing(); p != "" {
				m.Tell(bench.Told(what+t.name, 0, "s", fmt.Sprintf("not measured: no %s (%s)", p, t.install)))
				continue
			}
			its := m.tailerDelay(ctx, o, &t)
			m.Tell(
				bench.Told(what+t.name, its.Seconds(), "s", "its usual pace; the log is written before the answer"),
				bench.AtLeast(what+t.name+" / relaygate", t.goal, float64(its)/float64(max(own, 1)), "×", ""),
			)
		}
	})
}

// tailerDelay is the median delay of a tailer.
func (m *measure) tailerDelay(ctx context.Context, o *observer, t *tailer) (p50 time.Duration) {
	must.Do(m.serverNS.Do(func() error { return makeSet(tailerTable, tailerSet) }))
	defer m.End(func() error { return m.serverNS.Do(func() error { return dropTable(tailerTable) }) })
	m.logged(func(dir string) {
		must.Do(t.configure(dir))
		m.withTailer(ctx, t, dir, func() { p50 = m.tailed(ctx, o) })
	})
	return p50
}

// logged lets the server write a mail.log in a new folder while do runs.
func (m *measure) logged(do func(dir string)) {
	dir := must.Get(os.MkdirTemp(m.Dir, "tailer"))
	defer m.End(func() error { return os.RemoveAll(dir) })
	must.Get(m.server.do(Task{Verb: "log", File: filepath.Join(dir, "mail.log")}))
	defer m.End(func() error { _, err := m.server.do(Task{Verb: "log"}); return err })
	do(dir)
}

// tailed logs in again and again and returns the median delay until the element
// is there. All must come.
func (m *measure) tailed(ctx context.Context, o *observer) time.Duration {
	o.sights()
	watch := startMonitor(m.serverNS)
	must.Get(m.client.do(Task{Verb: "login", First: m.addresses(tailedLogins), Count: tailedLogins, Gap: tailedGap}))
	must.Do(lab.Poll(ctx, tailedLimit, settled, func() error {
		if n := watch.count(); n < tailedLogins {
			return fmt.Errorf("%d of %d logins have an element", n, tailedLogins)
		}
		return nil
	}))
	came := watch.stop()
	list := waits(o.sights(), came)
	if len(list) != tailedLogins {
		must.Do(fmt.Errorf("%d answers were seen to leave, not %d", len(list), tailedLogins))
	}
	return percentile(list, 50)
}

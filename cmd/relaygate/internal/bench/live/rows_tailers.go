package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
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
func (m *measure) tailers(ctx context.Context) (rows []bench.Row, err error) {
	if !m.full {
		return nil, nil
	}
	o, err := observe(m.groups["agent"])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	var own time.Duration
	err = m.logged(func(string) error {
		return m.withAgent(ctx, func(*agent) (err error) {
			own, err = m.tailed(ctx, o)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	const what = "answer leaves → element is there, p50: "
	rows = []bench.Row{bench.Told(what+"relaygate", micro(own), "µs", fmt.Sprintf("%d logins, %v apart", tailedLogins, tailedGap))}
	for _, t := range allTailers {
		if p := t.missing(); p != "" {
			rows = append(rows, bench.Told(what+t.name, 0, "s", fmt.Sprintf("not measured: no %s (%s)", p, t.install)))
			continue
		}
		its, err := m.tailerDelay(ctx, o, &t)
		if err != nil {
			return rows, err
		}
		rows = append(rows,
			bench.Told(what+t.name, its.Seconds(), "s", "its usual pace; the log is written before the answer"),
			bench.AtLeast(what+t.name+" / relaygate", t.goal, float64(its)/float64(max(own, 1)), "×", ""))
	}
	return rows, nil
}

// tailerDelay is the median delay of a tailer.
func (m *measure) tailerDelay(ctx context.Context, o *observer, t *tailer) (p50 time.Duration, err error) {
	if err := m.serverNS.Do(func() error { return makeSet(tailerTable, tailerSet) }); err != nil {
		return 0, err
	}
	drop := func() error { return m.serverNS.Do(func() error { return dropTable(tailerTable) }) }
	defer func() { err = errors.Join(err, drop()) }()
	err = m.logged(func(dir string) error {
		if err := t.configure(dir); err != nil {
			return err
		}
		r, err := m.startTailer(ctx, t, dir)
		if err != nil {
			return err
		}
		defer r.stop()
		p50, err = m.tailed(ctx, o)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", t.name, err)
	}
	return p50, nil
}

// logged lets the server write a mail.log in a new folder while do runs.
func (m *measure) logged(do func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(m.dir, "tailer")
	if err != nil {
		return fmt.Errorf("make a folder for the mail log: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := m.server.do(Task{Verb: "log", File: filepath.Join(dir, "mail.log")}); err != nil {
		return err
	}
	defer func() {
		_, off := m.server.do(Task{Verb: "log"})
		err = errors.Join(err, off)
	}()
	return do(dir)
}

// tailed logs in again and again and returns the median delay until the element
// is there. All must come.
func (m *measure) tailed(ctx context.Context, o *observer) (p50 time.Duration, err error) {
	if _, err := o.sights(); err != nil {
		return 0, err
	}
	watch, err := startMonitor(m.serverNS)
	if err != nil {
		return 0, err
	}
	_, err = m.client.do(Task{Verb: "login", First: m.addresses(tailedLogins), Count: tailedLogins, Gap: tailedGap})
	if err == nil {
		err = lab.Poll(ctx, tailedLimit, settled, func() error {
			if n := watch.count(); n < tailedLogins {
				return fmt.Errorf("%d of %d logins have an element", n, tailedLogins)
			}
			return nil
		})
	}
	came, stopped := watch.stop()
	if err := errors.Join(err, stopped); err != nil {
		return 0, err
	}
	sights, err := o.sights()
	if err != nil {
		return 0, err
	}
	list := waits(sights, came)
	if len(list) != tailedLogins {
		return 0, fmt.Errorf("%d answers were seen to leave, not %d", len(list), tailedLogins)
	}
	return percentile(list, 50), nil
}

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// figures counts what the test says at its end.
type figures struct{ dialogues, logged, found, honest, missed, refused, wrong int }

// settled waits until watch shows a later login and until what is still on its
// way to the log or from the tap has arrived. It returns the logins of the log.
func (w *world) settled(t *testing.T, played []*played) (logins map[key]string) {
	t.Helper()
	must(t, lab.Poll(t.Context(), 10*time.Second, 50*time.Millisecond, func() error { return w.sentinel(t) }))
	err := lab.Poll(t.Context(), 3*time.Second, 100*time.Millisecond, func() error {
		logins = w.dovecot.logins(t)
		for _, p := range played {
			_, logged := logins[p.key]
			_, found := w.watch.result(p.key, "success")
			if found != logged && (found || p.want != unknown) {
				return fmt.Errorf("%v: logged %v, found %v", p.key, logged, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Logf("log and watch do not agree: %v", err)
	}
	return logins
}

// judge compares what watch said with Dovecot's log.
func (w *world) judge(t *testing.T, all []*played) {
	t.Helper()
	logins := w.settled(t, all)
	f := figures{dialogues: len(all)}
	for _, p := range all {
		user, logged := logins[p.key]
		for _, problem := range f.compare(w, p, user, logged) {
			t.Errorf("%s (%v): %s\n%sverdicts: %+v", p.name, p.key, problem, p.seen, w.watch.all(p.key))
		}
	}
	for _, reason := range w.watch.lost {
		t.Errorf("events were lost: %s", reason)
	}
	t.Logf("%d dialogues, %d of them honest: Dovecot logged %d logins, relaygate found %d of them; %d honest ones missed, %d false; %d refusals shown",
		f.dialogues, f.honest, f.logged, f.found, f.missed, f.wrong, f.refused)
}

// compare says what is wrong with one dialogue, and counts it. The log says
// whether somebody logged in, and who.
func (f *figures) compare(w *world, p *played, user string, logged bool) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	v, found := w.watch.result(p.key, "success")
	_, refused := w.watch.result(p.key, "failure")
	if logged {
		f.logged++
	}
	if logged && found {
		f.found++
	}
	if found && (!logged || v.User != user) {
		f.wrong++
		problem("relaygate says that %q logged in, Dovecot says %q", v.User, user)
	}
	if p.key == (key{}) {
		problem("no connection: %v", p.err)
	}
	if p.want == unknown {
		return problems
	}

	f.honest++
	if p.err != nil {
		problem("the dialogue was not played to its end: %v", p.err)
	}
	if logged != (p.want == login) {
		problem("Dovecot says %v to its login, which is not what the dialogue expects", logged)
	}
	if logged && !found {
		f.missed++
		problem("the login of %q was not found", user)
	}
	if p.want == refusal && refused {
		f.refused++
	}
	if p.want == refusal && !refused && !p.odd {
		problem("the refusal was not shown")
	}
	return problems
}

//go:build e2e

package overtls

import (
	"slices"
	"testing"
	"time"
)

// TestEveryServer judges a crowd of clients at all servers at once.
func TestEveryServer(t *testing.T) {
	w := newWorld(t)
	w.startAll(t)
	a := w.startAgent(t)
	w.attached(t, a)
	all := w.load(clients())
	a.settle(t, all)
	s := judge(t, slices.Concat(all, w.probes), a)
	t.Log(count(all))
	t.Log(s)
	for name, f := range w.perServer(all) {
		t.Logf("%s: %v", name, f)
	}
	t.Logf("relaygate was told %s", a.records(t))
	t.Logf("relaygate status:\n%s", a.status(t))
}

// TestRestarts starts and stops relaygate five times under load: what overlaps a
// start or a stop may be missing, and nothing may be wrong.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	w.startAll(t)
	done := make(chan []*attempt, 1)
	go func() { done <- w.load(clients() / 2) }()
	var agents []*agent
	var all []*attempt
	for i := 0; i < 5 || all == nil; i++ {
		a := w.startAgent(t)
		agents = append(agents, a)
		select {
		case all = <-done:
			a.settle(t, all)
		case <-time.After(3 * time.Second):
		}
		must(t, a.stop())
		a.ready = a.ready.Add(attachTime)
	}
	s := judge(t, all, agents...)
	t.Log(count(all))
	t.Logf("%d starts: %v", len(agents), s)
}

// attachTime bounds the time that a new agent needs to find the servers that
// run already.
const attachTime = 2 * time.Second

// perServer splits the figures.
func (w *world) perServer(all []*attempt) map[string]figures {
	own := make(map[string][]*attempt)
	for _, a := range all {
		own[a.server] = append(own[a.server], a)
	}
	out := make(map[string]figures)
	for name, some := range own {
		out[name] = count(some)
	}
	return out
}

// attached waits until relaygate reads a login at each service.
func (w *world) attached(t *testing.T, a *agent) {
	t.Helper()
	begin := time.Now()
	left := slices.Clone(w.services)
	services := len(left)
	for len(left) > 0 && time.Since(begin) < 30*time.Second {
		probes := w.loadAt(left, len(left))
		time.Sleep(500 * time.Millisecond)
		left = slices.DeleteFunc(left, func(s service) bool {
			return slices.ContainsFunc(probes, func(p *attempt) bool {
				login, refusal := a.missed(p)
				return p.service == s && p.err == nil && !login && !refusal
			})
		})
		w.probes = append(w.probes, probes...)
		t.Logf("%d of %d services are read after %v", services-len(left), services, time.Since(begin).Round(time.Millisecond))
	}
	a.ready = time.Now() // what came before is no promise
	for _, s := range left {
		t.Errorf("relaygate does not read %s, port %d, at %v", s.server, s.port, s.at.v4)
		i := slices.IndexFunc(w.probes, func(p *attempt) bool { return p.service == s })
		t.Logf("of %s: %+v\n%s", w.probes[i].user, a.all(w.probes[i].client), w.probes[i].seen)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// TestAdoptedProcesses reads a Courier that has STARTTLS and STLS alone: TLS is
// spoken by processes that init adopts, and no other maps the library.
func TestAdoptedProcesses(t *testing.T) {
	w := newWorld(t)
	w.courier(t, false)
	a := w.startAgent(t)
	w.attached(t, a)
	all := w.load(min(200, clients()))
	a.settle(t, all)
	t.Log(judge(t, slices.Concat(all, w.probes), a))
	t.Logf("relaygate status:\n%s", a.status(t))
}

// TestServerComesLater starts servers after relaygate, and one of them again.
func TestServerComesLater(t *testing.T) {
	w := newWorld(t)
	a := w.startAgent(t)
	s := w.startForkingDovecot(t)
	w.startCyrus(t)
	w.attached(t, a)
	all := w.load(min(200, clients()))
	a.settle(t, all)
	for _, one := range all {
		if login, refusal := a.missed(one); login || refusal {
			t.Errorf("missing at %s, port %d: %s", one.server, one.port, one.seen)
		}
	}
	must(t, s.Stop())
	w.services = nil
	w.startForkingDovecot(t)
	w.attached(t, a) // what is missed until then is no promise
	again := w.load(min(200, clients()))
	a.settle(t, again)
	t.Log(judge(t, slices.Concat(all, w.probes, again), a))
}

//go:build e2e

package overtls

import (
	"crypto/tls"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"relaygate/cmd/relaygate/internal/e2e/layer"
)

var (
	number = flag.Int("number", 0, "number of logins over TLS in the big test (default 5000, with -short 300)")
	seed   = flag.Uint64("seed", 1, "seed of what the clients do")
	only   = flag.String("only", "", "the servers to test, with commas, if not all")
)

// clients is how many log in in the big test.
func clients() int {
	switch {
	case *number > 0:
		return *number
	case testing.Short():
		return 300
	}
	return 5000
}

// workers is the number of clients at a time.
const workers = 60

// startAll starts every server, or those that are asked for with what they need.
func (w *world) startAll(t *testing.T) {
	for _, s := range []struct {
		name  string
		start func(*testing.T) *layer.Server
	}{
		{"dovecot-busy", w.startBusyDovecot},
		{"dovecot-fork", w.startForkingDovecot},
		{"cyrus", w.startCyrus},
		{"courier", w.startCourier},
		{"nginx", w.startNginx},
		{"haproxy", w.startHAProxy},
		{"stunnel", w.startStunnel},
		{balancer, w.startBalancer},
		{debian11, w.startOldDovecot},
		{debian13, w.startNewDovecot},
		{director, w.startDirector},
	} {
		behind := s.name == "dovecot-busy" && slices.ContainsFunc([]string{"nginx", "haproxy", "stunnel", balancer}, wanted) ||
			s.name == debian13 && wanted(director)
		if wanted(s.name) || behind {
			s.start(t)
		}
	}
	w.services = slices.DeleteFunc(w.services, func(s service) bool { return !wanted(s.server) })
}

// wanted tells whether a server is to be tested.
func wanted(name string) bool { return *only == "" || slices.Contains(strings.Split(*only, ","), name) }

// tickets are one client program's memory of sessions.
type tickets map[service]tls.ClientSessionCache

// newAttempt makes up the next client: what it knows of TLS, where it goes, what it
// says.
func (w *world) newAttempt(r *rand.Rand, at service, known tickets) *attempt {
	w.next++
	a := &attempt{
		service: at,
		user:    user(w.next), sasl: r.IntN(3) == 0, after: r.IntN(3),
		password: [][]string{{right}, {right}, {right}, {"wrong"}, {"wrong", right}}[r.IntN(5)],
		config: &tls.Config{
			ServerName: "mail.example", InsecureSkipVerify: true, MinVersion: tls.VersionTLS12,
		},
	}
	a.client = nth(clients4, w.next+1)
	if r.IntN(2) == 0 {
		a.client = nth(clients6, w.next+1)
	}
	if r.IntN(3) == 0 {
		a.config.MaxVersion = tls.VersionTLS12
	}
	if r.IntN(2) == 0 { // else a curve is guessed that no server has
		a.config.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
	if r.IntN(2) == 0 {
		if known[a.service] == nil {
			known[a.service] = tls.NewLRUClientSessionCache(8)
		}
		a.config.ClientSessionCache = known[a.service]
	}
	return a
}

// load plays n clients, several at a time, at all services.
func (w *world) load(n int) []*attempt { return w.loadAt(w.services, n) }

func (w *world) loadAt(services []service, n int) []*attempt {
	r := rand.New(rand.NewPCG(*seed, uint64(w.next)))
	known := make(tickets)
	jobs := make(chan *attempt)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for a := range jobs {
				w.play(a)
			}
		})
	}
	all := make([]*attempt, 0, n)
	for i := range n {
		a := w.newAttempt(r, services[i%len(services)], known)
		all = append(all, a)
		jobs <- a
	}
	close(jobs)
	wg.Wait()
	return all
}

// figures are what the clients did.
type figures struct{ clients, logins, refusals, retried, resumed, tls12, broken int }

func count(all []*attempt) (f figures) {
	for _, a := range all {
		f.clients++
		f.refusals += a.refused
		if a.ok {
			f.logins++
		}
		if a.state.HelloRetryRequest {
			f.retried++
		}
		if a.state.DidResume {
			f.resumed++
		}
		if a.state.Version == tls.VersionTLS12 {
			f.tls12++
		}
		if a.err != nil {
			f.broken++
		}
	}
	return f
}

func (f figures) String() string {
	return fmt.Sprintf("%d clients: %d logins, %d refusals, %d HelloRetryRequests, %d sessions resumed, %d with TLS 1.2, %d broken off",
		f.clients, f.logins, f.refusals, f.retried, f.resumed, f.tls12, f.broken)
}

// TestServers shows that the servers and the clients do what the other tests
// build on, without relaygate: a right password is taken, a wrong one is not.
func TestServers(t *testing.T) {
	w := newWorld(t)
	w.startAll(t)
	all := w.load(200)
	t.Log(count(all))
	for _, a := range all {
		if a.server == "director" && a.ok { // Dovecot 2.4 now and then leaves a command of whom it proxies without an answer
			continue
		}
		if a.err != nil || a.ok != slices.Contains(a.password, right) && a.refused == 0 {
			t.Errorf("%s, port %d, %s: %v\n%s", a.server, a.port, a.user, a.err, a.seen)
		}
	}
	for name, f := range w.perServer(all) {
		t.Logf("%s: %v", name, f)
	}
}

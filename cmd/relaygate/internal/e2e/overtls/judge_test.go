//go:build e2e

package overtls

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// verdict is what watch says of a login or of a grant, as far as the clients
// know it too.
type verdict struct {
	Event, Protocol, User, Result, Reason string

	Client string
	Port   uint16 `json:"client_port"`
	TLS    bool
}

// agent is relaygate, and what it told a watcher.
type agent struct {
	*lab.Daemon
	ready, stopped time.Time
	watched        <-chan error // closed when all that it told is noted

	mu     sync.Mutex
	logins map[string][]verdict // by client address
	grants map[string]bool      // client addresses
	lost   []string             // what watch says of lost events
}

// agentConfig believes HAProxy, and a balancer and a director on another host, about the
// clients that they announce.
const agentConfig = `
[watch]
trusted_proxies = [%q, %q, %q]
`

// startAgent runs relaygate beside the servers.
func (w *world) startAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{logins: make(map[string][]verdict), grants: make(map[string]bool)}
	d, err := lab.StartDaemon(t.Context(), w.server, lab.Options{
		Exe: program, Dir: t.TempDir(), Lifetime: 10 * time.Minute,
		Config: fmt.Sprintf(agentConfig, atAnnounced.v4, atBalancer.v4, atDirector.v4),
	})
	must(t, err)
	a.Daemon = d
	t.Cleanup(func() {
		must(t, a.stop())
		if t.Failed() {
			log := strings.Split(a.Log(), "\n")
			t.Logf("the end of relaygate's log:\n%s", strings.Join(log[max(0, len(log)-60):], "\n"))
		}
	})
	a.watched, err = a.Watch(t.Context(), a.note)
	must(t, err)
	a.ready = time.Now()
	return a
}

// stop ends relaygate, when all that it told has been noted.
func (a *agent) stop() error {
	if a.stopped.IsZero() {
		a.stopped = time.Now()
	}
	err := a.Stop()
	<-a.watched
	return err
}

// note takes an event.
func (a *agent) note(line []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var v verdict
	if err := json.Unmarshal(line, &v); err != nil {
		a.lost = append(a.lost, fmt.Sprintf("%v in %s", err, line))
	}
	switch v.Event {
	case "login":
		a.logins[v.Client] = append(a.logins[v.Client], v)
	case "grant", "renew":
		a.grants[v.Client] = true
	case "drop":
		a.lost = append(a.lost, v.Reason)
	}
	return nil
}

// has tells whether a client has a verdict.
func (a *agent) has(client netip.Addr, is func(verdict) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.logins[client.String()], is)
}

func (a *agent) all(client netip.Addr) []verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.logins[client.String()])
}

// overlaps tells whether the agent was not there for the whole connection: it
// was begun before the attach, or ended after the stop, or so shortly before it
// that what it said was still on its way.
func (a *agent) overlaps(one *attempt) bool {
	const onItsWay = 500 * time.Millisecond
	return one.begun.Before(a.ready) || !a.stopped.IsZero() && one.ended.After(a.stopped.Add(-onItsWay))
}

// score is what the judge counts.
type score struct{ verdicts, wrong, missing, unrefused, overlapping int }

func (s score) String() string {
	return fmt.Sprintf("%d verdicts over TLS, %d wrong, %d logins missing, %d refusals missing; %d connections overlapped a start or stop",
		s.verdicts, s.wrong, s.missing, s.unrefused, s.overlapping)
}

// missed says what the agent has not said of a client.
func (a *agent) missed(one *attempt) (login, refusal bool) {
	login = one.ok && !a.has(one.client, func(v verdict) bool {
		return v.Result == "success" && v.TLS && v.User == one.user
	})
	refusal = one.refused > 0 && !a.has(one.client, func(v verdict) bool { return v.Result == "failure" && v.TLS })
	return login, refusal
}

// settle waits until nothing is missing any more, or for a while.
func (a *agent) settle(t *testing.T, all []*attempt) {
	t.Helper()
	_ = lab.Poll(t.Context(), 5*time.Second, 100*time.Millisecond, func() error {
		for _, one := range all {
			if login, refusal := a.missed(one); (login || refusal) && !a.overlaps(one) {
				return errors.New("something is missing")
			}
		}
		return nil
	})
}

// shown bounds the problems that are printed of each kind.
const shown = 8

// judge compares what the agents said with what the clients know. Each client
// belongs to the agent that ran at its beginning, and none of them may say that
// somebody logged in who did not.
func judge(t *testing.T, all []*attempt, agents ...*agent) score {
	t.Helper()
	var s score
	printed := make(map[string]int)
	problem := func(kind, format string, args ...any) {
		if printed[kind]++; printed[kind] <= shown {
			t.Errorf(kind+": "+format, args...)
		}
	}
	truth := make(map[string]*attempt)
	for _, one := range all {
		truth[one.client.String()] = one
	}
	for _, a := range agents {
		a.mu.Lock()
		for client, verdicts := range a.logins {
			for _, v := range verdicts {
				one := truth[client]
				if v.TLS && (v.Result == "success" || v.Result == "failure") {
					s.verdicts++
				}
				if v.Result == "success" && !own(client) && (one == nil || !one.ok || one.user != v.User) {
					s.wrong++
					problem("wrong", "%+v", v)
				}
			}
		}
		for client := range a.grants {
			if one := truth[client]; one == nil || !one.ok {
				s.wrong++
				problem("wrong grant", "%s", client)
			}
		}
		for _, reason := range a.lost {
			problem("lost", "%s", reason)
		}
		a.mu.Unlock()
	}
	for _, one := range all {
		i := slices.IndexFunc(agents, func(a *agent) bool { return !a.overlaps(one) })
		if i < 0 {
			s.overlapping++
			continue
		}
		login, refusal := agents[i].missed(one)
		if one.injected != "" && agents[i].has(one.client, func(v verdict) bool { return v.Result == "tainted" }) {
			continue // to doubt it is right too
		}
		if login {
			s.missing++
			problem("missing login at "+one.server, "port %d, %s from %s, TLS %x, retried %v, resumed %v, begun %v after the attach and ended %v before the stop\n%sverdicts: %+v",
				one.port, one.user, one.client, one.state.Version, one.state.HelloRetryRequest, one.state.DidResume,
				one.begun.Sub(agents[i].ready), agents[i].stopped.Sub(one.ended), one.seen, agents[i].all(one.client))
		}
		if refusal {
			s.unrefused++
			problem("missing refusal at "+one.server, "port %d, %s from %s\n%sverdicts: %+v", one.port, one.user, one.client, one.seen, agents[i].all(one.client))
		}
	}
	return s
}

// own tells whether an address is one of the servers': what a proxy does there
// in a client's name is true, and opens nothing.
func own(client string) bool {
	a, err := netip.ParseAddr(client)
	return err == nil && (servers4.Contains(a) || servers6.Contains(a))
}

// status is what `relaygate status` prints.
func (a *agent) status(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(program, "status", "--socket", a.Socket).CombinedOutput()
	if err != nil {
		t.Logf("relaygate status: %v", err)
	}
	return string(out)
}

// records says how much of a connection in TLS the kernel hands to relaygate.
func (a *agent) records(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(program, "status", "--json", "--socket", a.Socket).Output()
	must(t, err)
	var s struct {
		Tap struct{ Packets, Opened float64 }
		TLS struct{ Handshakes, Calls float64 }
	}
	must(t, json.Unmarshal(out, &s))
	return fmt.Sprintf("%.1f packets of a connection, and %.1f calls of one in TLS, with the handshake and the login",
		s.Tap.Packets/max(s.Tap.Opened, 1), s.TLS.Calls/max(s.TLS.Handshakes, 1))
}

package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// stormTask is logins as fast as the clients can, each of another user from
// another address; every tenth has a wrong password.
func (m *measure) stormTask() Task {
	const most = 300_000 // logins: more than any machine here can do meanwhile
	return Task{
		Verb: "login", First: m.addresses(most), For: pick(m, 1500*time.Millisecond, 10*time.Second),
		Workers: 16, Wrong: 10,
	}
}

// storm logs in with the daemon and without, and says who was lost, and who was
// let in and should not have been.
func (m *measure) storm(ctx context.Context) {
	var rates, withRates, ratios, floors []float64
	lost, wrong, logins := 0, 0, 0
	var each, own []time.Duration // per login: added to everybody, the daemon's
	for range pairs {
		without := m.stormOnce(nil, m.stormTask())
		m.withAgent(ctx, func(a *lab.Daemon) {
			with := m.stormOnce(a, m.stormTask())
			rates, withRates = append(rates, without.rate), append(withRates, with.rate)
			ratios = append(ratios, with.rate/without.rate)
			each, own = append(each, with.spent-without.spent), append(own, with.own)
			lost, wrong, logins = lost+with.lost, wrong+with.wrong, logins+with.done
			must.Do(a.Freeze(ctx)) // it reads nothing of the next storm
			defer m.End(a.Thaw)
			floors = append(floors, m.stormOnce(nil, m.stormTask()).rate/without.rate)
		})
	}
	m.Tell(
		bench.AtMost("login storm: good logins without an element", 0, float64(lost), "", fmt.Sprintf("of %d logins, every tenth with a wrong password", logins)),
		bench.AtMost("login storm: elements without a good login", 0, float64(wrong), "", ""),
		bench.AtLeast("login storm: logins a second, with / without", 0.95, bench.Median(ratios), "×",
			fmt.Sprintf("%.0f/s without, %.0f/s with; both processors are busy", bench.Median(rates), bench.Median(withRates))),
		bench.Told("login storm: the same of its programs and its gate alone", bench.Median(floors), "×", "the daemon is stopped (SIGSTOP), and spends nothing"),
		bench.Told("login storm: CPU added per login, everybody's", micro(bench.Median(each)), "µs", "client, server and daemon"),
	)
	m.stormWatched(ctx, bench.Median(own))
}

// storming is what came of one storm.
type storming struct {
	done, lost, wrong int
	rate              float64       // logins a second
	spent, own        time.Duration // per login: everybody's processor time, the daemon's
}

// stormOnce lets a storm pass; a is nil without the daemon.
func (m *measure) stormOnce(a *lab.Daemon, t Task) storming {
	before := m.groups.spent("agent")
	var r Result
	spent := m.cost(func() {
		r = must.Get(m.client.do(t))
		rest(2 * settled) // what the daemon still does is counted
	})
	after := m.groups.spent("agent")
	if r.Done == 0 {
		must.Do(errors.New("nobody logged in"))
	}
	n := time.Duration(r.Done)
	s := storming{done: r.Done, rate: float64(r.Done) / r.Took.Seconds(), spent: spent / n, own: (after - before) / n}
	if a == nil {
		return s
	}
	// The daemon is done when the kernel holds what it should, or never.
	_ = lab.Poll(context.Background(), 5*time.Second, settled, func() error {
		if s.lost, s.wrong = m.compare(t, r.Done); s.lost > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	return s
}

// compare counts who should be a member and is not, and the reverse.
func (m *measure) compare(t Task, done int) (lost, wrong int) {
	members := m.members()
	good := 0
	for i := range done {
		switch in := members[clientAddr(t.First+i)]; {
		case t.wrong(i):
		case in:
			good++
		default:
			lost++
		}
	}
	return lost, len(members) - good
}

// stormWatched lets one more storm pass, with everything switched on that shows
// how long who waited, and what the programs of the daemon took.
func (m *measure) stormWatched(ctx context.Context, own time.Duration) {
	m.withObserver(func(o *observer) {
		m.withTimes(ctx, func(a *lab.Daemon) {
			watch := startMonitor(m.serverNS)
			s, bpf := m.stormCost(a, m.stormTask())
			came := watch.stop()
			waited := waits(o.sights(), came)
			m.Tell(
				bench.Told("login storm: answer leaves → element is there, p50", micro(percentile(waited, 50))/1e3, "ms", fmt.Sprintf("%d logins at %.0f/s, watched", len(waited), s.rate)),
				bench.Told("login storm: answer leaves → element is there, p99", micro(percentile(waited, 99))/1e3, "ms", ""),
				bench.AtMost("CPU per login, kernel and user", 25, micro(own+bpf), "µs",
					fmt.Sprintf("clear text, new client, in the storm: the daemon %.1f, its BPF programs %.1f", micro(own), micro(bpf))),
			)
		})
	})
}

// paced is what a login costs the daemon at a pace that leaves the processors time:
// then it is woken for each one, and finds nothing of its own in their caches.
func (m *measure) paced(ctx context.Context) {
	for _, rate := range []int{500, 5000} {
		count := pick(m, 2*rate, 10*rate)
		t := Task{
			Verb: "login", First: m.addresses(count), Count: count, Gap: time.Second / time.Duration(rate),
			Workers: 16, Wrong: 10,
		}
		m.withTimes(ctx, func(a *lab.Daemon) {
			s, bpf := m.stormCost(a, t)
			m.Tell(bench.Told(fmt.Sprintf("CPU per login at %d logins a second", rate), micro(s.own+bpf), "µs",
				fmt.Sprintf("the daemon %.1f, its BPF programs %.1f", micro(s.own), micro(bpf))))
		})
	}
}

// stormCost is one storm, and what the daemon's programs took for each login.
func (m *measure) stormCost(a *lab.Daemon, t Task) (s storming, bpf time.Duration) {
	m.withObjects(a.PID(), func(programs *objects) {
		var empty hooks
		defer m.End(empty.close)
		empty.attachEmpties()
		s = m.stormOnce(a, t)
		bpf = programs.took(runsOf(empty.progs[0]).each()) / time.Duration(s.done)
	})
	return s, bpf
}

// took is how long all programs ran since they were loaded, above what an empty
// one does (ns): nearly all of that is the clock, which is read only to measure.
func (o *objects) took(empty float64) (sum time.Duration) {
	for _, p := range o.programs {
		r := runsOf(p)
		sum += r.took - time.Duration(float64(r.count)*empty)
	}
	return sum
}

// waits are the times from each positive answer to the client's element.
func waits(sights []sight, came map[netip.Addr]time.Duration) (list []time.Duration) {
	for _, s := range sights {
		if at, ok := came[netip.AddrFrom4(s.addr)]; ok && s.kind == answerLeft {
			list = append(list, at-s.at)
		}
	}
	return list
}

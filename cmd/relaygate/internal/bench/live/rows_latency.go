package live

import (
	"context"
	"fmt"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// latency measures from the last byte of the positive answer leaving the server
// to the acknowledgement of the element, by the observer's clock, for the daemon
// and for the C program in turn.
func (m *measure) latency(ctx context.Context) {
	program := m.buildDirect(ctx)
	var daemon, peer []time.Duration // of all
	var ratios, daemons, peers []float64
	m.withObserver(func(o *observer) {
		for range pairs {
			one, two := m.latencyPair(ctx, o, program)
			daemon, peer = append(daemon, one...), append(peer, two...)
			ratios = append(ratios, float64(percentile(one, 50))/float64(max(percentile(two, 50), 1)))
			daemons, peers = append(daemons, micro(percentile(one, 50))), append(peers, micro(percentile(two, 50)))
		}
	})
	m.Tell(
		bench.Told("answer leaves → element acknowledged: p50", bench.Median(daemons), "µs", fmt.Sprintf("%d logins, one after the other", len(daemon))),
		bench.Told("answer leaves → element acknowledged: p99", micro(percentile(daemon, 99)), "µs", ""),
	)
	if program == "" {
		m.Tell(bench.Told("the same of a C program", 0, "µs", "not measured: no C compiler (cc)"))
		return
	}
	m.Tell(
		bench.Told("the same of a C program (epoll, raw netlink): p50", bench.Median(peers), "µs", ""),
		bench.Told("the same of a C program (epoll, raw netlink): p99", micro(percentile(peer, 99)), "µs", ""),
		bench.AtMost("answer leaves → element acknowledged, p50 / C program's", 1.5, bench.Median(ratios), "×", ""),
	)
}

// latencyPair measures the daemon and the C program once each. The latter adds
// to the gate that the former left.
func (m *measure) latencyPair(ctx context.Context, o *observer, program string) (daemon, peer []time.Duration) {
	m.withAgent(ctx, func(a *lab.Daemon) {
		daemon = m.loginDelays(o)
		must.Do(a.Stop())
		if program != "" {
			m.withDirect(ctx, program, func() { peer = m.loginDelays(o) })
		}
	})
	return daemon, peer
}

// loginDelays logs in again and again and returns the delays.
func (m *measure) loginDelays(o *observer) []time.Duration {
	count := pick(m, 300, 2000)
	o.sights()
	must.Get(m.client.do(Task{Verb: "login", First: m.addresses(count), Count: count, Gap: 2 * time.Millisecond}))
	rest(settled)
	list, missing := delays(o.sights())
	if missing > 0 || len(list) != count {
		must.Do(fmt.Errorf("%d of %d logins were seen to be acknowledged, %d not", len(list), count, missing))
	}
	return list
}

// knocks tries port 25 a moment after the client has read the positive answer.
func (m *measure) knocks(ctx context.Context) {
	m.withAgent(ctx, func(*lab.Daemon) {
		for _, k := range []struct {
			wait  time.Duration
			goal  float64
			count int
		}{
			{500 * time.Microsecond, 99.5, pick(m, 1000, 10_000)},
			{5 * time.Millisecond, 100, pick(m, 300, 2000)},
		} {
			r := must.Get(m.client.do(Task{Verb: "login", First: m.addresses(k.count), Count: k.count, Wait: k.wait}))
			m.Tell(bench.AtLeast(fmt.Sprintf("SYN to port 25 %v after +OK was read: let in", k.wait),
				k.goal, 100*float64(r.Passed)/float64(r.Done), "%", fmt.Sprintf("%d of %d", r.Passed, r.Done)))
		}
	})
}

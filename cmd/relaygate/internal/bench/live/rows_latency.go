package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
)

// latency measures from the last byte of the positive answer leaving the server
// to the acknowledgement of the element, by the observer's clock, for the daemon
// and for the C program in turn.
func (m *measure) latency(ctx context.Context) (rows []bench.Row, err error) {
	o, err := observe(m.groups["agent"])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	program, noPeer := m.buildDirect(ctx)
	if noPeer != nil && !errors.Is(noPeer, errNoCompiler) {
		return nil, noPeer
	}
	var daemon, peer []time.Duration // of all
	var ratios, daemons, peers []float64
	for range pairs {
		one, two, err := m.latencyPair(ctx, o, program)
		if err != nil {
			return nil, err
		}
		daemon, peer = append(daemon, one...), append(peer, two...)
		if noPeer == nil {
			ratios = append(ratios, float64(percentile(one, 50))/float64(max(percentile(two, 50), 1)))
		}
		daemons, peers = append(daemons, micro(percentile(one, 50))), append(peers, micro(percentile(two, 50)))
	}
	rows = []bench.Row{
		bench.Told("answer leaves → element acknowledged: p50", bench.Median(daemons), "µs", fmt.Sprintf("%d logins, one after the other", len(daemon))),
		bench.Told("answer leaves → element acknowledged: p99", micro(percentile(daemon, 99)), "µs", ""),
	}
	if noPeer != nil {
		return append(rows, bench.Told("the same of a C program", 0, "µs", "not measured: "+noPeer.Error())), nil
	}
	return append(rows,
		bench.Told("the same of a C program (epoll, raw netlink): p50", bench.Median(peers), "µs", ""),
		bench.Told("the same of a C program (epoll, raw netlink): p99", micro(percentile(peer, 99)), "µs", ""),
		bench.AtMost("answer leaves → element acknowledged, p50 / C program's", 1.5, bench.Median(ratios), "×", "")), nil
}

// latencyPair measures the daemon and the C program once each. The latter adds
// to the gate that the former left.
func (m *measure) latencyPair(ctx context.Context, o *observer, program string) (daemon, peer []time.Duration, err error) {
	a, err := m.agent(ctx)
	if err != nil {
		return nil, nil, err
	}
	daemon, err = m.loginDelays(o)
	if err := errors.Join(err, a.Stop()); err != nil {
		return nil, nil, err
	}
	if program != "" {
		d, err := m.startDirect(ctx, program)
		if err != nil {
			return nil, nil, err
		}
		peer, err = m.loginDelays(o)
		if err := errors.Join(err, d.stop()); err != nil {
			return nil, nil, err
		}
	}
	return daemon, peer, a.stop()
}

// loginDelays logs in again and again and returns the delays.
func (m *measure) loginDelays(o *observer) ([]time.Duration, error) {
	count := pick(m, 300, 2000)
	if _, err := o.sights(); err != nil {
		return nil, err
	}
	_, err := m.client.do(Task{Verb: "login", First: m.addresses(count), Count: count, Gap: 2 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	rest(settled)
	sights, err := o.sights()
	if err != nil {
		return nil, err
	}
	list, missing := delays(sights)
	if missing > 0 || len(list) != count {
		return nil, fmt.Errorf("%d of %d logins were seen to be acknowledged, %d not", len(list), count, missing)
	}
	return list, nil
}

// knocks tries port 25 a moment after the client has read the positive answer.
func (m *measure) knocks(ctx context.Context) (rows []bench.Row, err error) {
	err = m.withAgent(ctx, func(*agent) error {
		for _, k := range []struct {
			wait  time.Duration
			goal  float64
			count int
		}{
			{500 * time.Microsecond, 99.5, pick(m, 1000, 10_000)},
			{5 * time.Millisecond, 100, pick(m, 300, 2000)},
		} {
			r, err := m.client.do(Task{Verb: "login", First: m.addresses(k.count), Count: k.count, Wait: k.wait})
			if err != nil {
				return err
			}
			rows = append(rows, bench.AtLeast(fmt.Sprintf("SYN to port 25 %v after +OK was read: let in", k.wait),
				k.goal, 100*float64(r.Passed)/float64(r.Done), "%", fmt.Sprintf("%d of %d", r.Passed, r.Done)))
		}
		return nil
	})
	return rows, err
}

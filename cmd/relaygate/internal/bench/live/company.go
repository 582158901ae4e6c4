package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/nft"
)

// company is who is there while something is done on a pair's connection to a
// port.
type company struct {
	port int
	keep func(while func() error) error
}

var nobody = company{pairPort, func(while func() error) error { return while() }}

// daemon is relaygate with a gate.
func (m *measure) daemon(ctx context.Context, port int, gate string) company {
	return company{port, func(while func() error) error {
		a, err := m.agentWith(ctx, gate)
		if err != nil {
			return err
		}
		return errors.Join(while(), a.stop())
	}}
}

// reader is one of a TPACKET_V3 ring.
func (m *measure) reader(ctx context.Context) company {
	return company{pairPort, func(while func() error) error {
		h, err := startHelper(ctx, m.serverNS, m.groups["agent"], "reader")
		if err != nil {
			return err
		}
		return errors.Join(while(), h.stop())
	}}
}

// gate is that of the daemon, without it.
func (m *measure) gate(brakes nft.Brakes) company {
	return company{pairPort, func(while func() error) (err error) {
		var g *nft.Gate
		err = m.serverNS.Do(func() (err error) {
			if g, err = nft.Open(nft.Config{Mode: nft.Filter, Ports: []uint16{smtpPort}, Brakes: brakes}); err != nil {
				return err
			}
			return g.Rebuild(nil)
		})
		if g == nil {
			return err
		}
		if err == nil {
			err = while()
		}
		return errors.Join(err, m.serverNS.Do(g.Delete), g.Close())
	}}
}

// undisturbed is the time that something takes if nothing disturbs it: nine in ten
// turns took longer. Those that did vary, the others hardly do.
func undisturbed(list []time.Duration) time.Duration { return percentile(list, 10) }

// turns is the processor time that something took in a company: the thread's,
// undisturbed, and the median of what a process beside it spent meanwhile.
type turns struct{ own, agent time.Duration }

func (t turns) all() time.Duration { return t.own + t.agent }

// takeTurns does something again and again in each company in turn.
func (m *measure) takeTurns(ctx context.Context, rounds int, do func(pair) (time.Duration, error), all []company) ([]turns, error) {
	own, agent := make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			err := c.keep(func() error {
				one, spent, err := m.turnOf(c.port, do)
				own[i], agent[i] = append(own[i], one...), append(agent[i], spent)
				return err
			})
			if err := errors.Join(err, ctx.Err()); err != nil {
				return nil, fmt.Errorf("turn %d: %w", i, err)
			}
		}
	}
	list := make([]turns, len(all))
	for i := range all {
		list[i] = turns{undisturbed(own[i]), bench.Median(agent[i])}
	}
	if os.Getenv("PART") != "" {
		fmt.Fprintln(m.log, own, agent)
	}
	return list, nil
}

// turnOf does something on a fresh connection ten times. It returns what the
// thread took each time, and the mean of what the agent spent meanwhile.
func (m *measure) turnOf(port int, do func(pair) (time.Duration, error)) (own []time.Duration, agent time.Duration, err error) {
	p, err := m.openPair(port)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	rest(settled) // nothing of the login is left in the rings
	unpin, err := pin()
	if err != nil {
		return nil, 0, err
	}
	defer unpin()
	before, err := m.groups.spent("agent")
	if err != nil {
		return nil, 0, err
	}
	const times = 10
	for range times {
		one, err := do(p)
		if err != nil {
			return nil, 0, err
		}
		own = append(own, one)
	}
	after, err := m.groups.spent("agent")
	return own, (after - before) / times, err
}

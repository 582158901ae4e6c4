package live

import (
	"context"
	"errors"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/nft"
)

// company is who is there while something is done on a pair's connection to a
// port.
type company struct {
	port int
	keep func(while func())
}

var nobody = company{pairPort, func(while func()) { while() }}

// daemon is relaygate with a gate.
func (m *measure) daemon(ctx context.Context, port int, gate string) company {
	return company{port, func(while func()) { m.withGate(ctx, gate, func(*lab.Daemon) { while() }) }}
}

// reader is one of a TPACKET_V3 ring.
func (m *measure) reader(ctx context.Context) company {
	return company{pairPort, func(while func()) {
		h := must.Get(startHelper(ctx, m.serverNS, m.groups["agent"], "reader"))
		defer m.End(h.stop)
		while()
	}}
}

// gate is that of the daemon, without it.
func (m *measure) gate(brakes nft.Brakes) company {
	return company{pairPort, func(while func()) {
		g := must.Get(nft.Open(nft.Config{Mode: nft.Filter, Ports: []uint16{smtpPort}, Brakes: brakes, Netns: m.serverNS.FD()}))
		defer m.End(func() error { return errors.Join(g.Delete(), g.Close()) })
		must.Do(g.Rebuild(nil))
		while()
	}}
}

// least is a tap whose programs do nothing, and the gate: whoever looks at each packet
// of a cgroup and asks an nftables set takes that much.
func (m *measure) least() company {
	gate := m.gate(nft.Brakes{})
	return company{gate.port, func(while func()) {
		var empty hooks
		defer m.End(empty.close)
		empty.attachEmpties()
		gate.keep(while)
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
func (m *measure) takeTurns(ctx context.Context, rounds int, do func(pair) time.Duration, all []company) []turns {
	own, agent := make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			c.keep(func() {
				one, spent := m.turnOf(c.port, do)
				own[i], agent[i] = append(own[i], one...), append(agent[i], spent)
			})
			must.Do(ctx.Err())
		}
	}
	list := make([]turns, len(all))
	for i := range all {
		list[i] = turns{undisturbed(own[i]), bench.Median(agent[i])}
	}
	return list
}

// turnOf does something on a fresh connection ten times. It returns what the
// thread took each time, and the mean of what the agent spent meanwhile.
func (m *measure) turnOf(port int, do func(pair) time.Duration) (own []time.Duration, agent time.Duration) {
	p := m.openPair(port)
	defer m.End(p.close)
	rest(settled) // nothing of the login is left in the rings
	defer must.Get(pin())()
	before := m.groups.spent("agent")
	const times = 10
	for range times {
		own = append(own, do(p))
	}
	return own, (m.groups.spent("agent") - before) / times
}

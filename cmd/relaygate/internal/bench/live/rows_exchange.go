package live

import (
	"context"
	"fmt"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/nft"
)

const observing = "mode = \"observe\"\n"

// exchanges has commands answered behind the login: without anybody, with the
// daemon, and with the reader of a TPACKET_V3 ring. That one stands at the
// server's end. The tap's hooks see the client's end too, as both are on this
// machine: what that costs is half of what a connection costs that nobody
// watches at either end.
func (m *measure) exchanges(ctx context.Context) {
	const commands = 2000
	const (
		alone = iota
		reader
		daemon
		tap
		elsewhere
		gate
		brakes
	)
	turns := []company{
		alone:     nobody,
		reader:    m.reader(ctx),
		daemon:    m.daemon(ctx, pairPort, gateMode),
		tap:       m.daemon(ctx, pairPort, observing),
		elsewhere: m.daemon(ctx, otherPairPort, observing),
		gate:      m.gate(nft.Brakes{}),
		brakes:    m.gate(nft.Brakes{NewPerMinute: 60, Concurrent: 20}), // the default
	}
	took := m.takeTurns(ctx, pick(m, pairs, 4*pairs), func(p pair) time.Duration { return p.exchange(commands) }, turns)
	more := func(who int) float64 { return micro(took[who].all()-took[alone].all()) / commands }
	client := more(elsewhere) / 2
	m.Tell(
		bench.AtMost("CPU added to a command and its answer / by TPACKET_V3", 1.0/3, (more(daemon)-client)/more(reader), "×",
			fmt.Sprintf("%.2f µs at the server's end, TPACKET_V3 %.2f µs, on %.1f µs without either", more(daemon)-client, more(reader), micro(took[alone].all())/commands)),
		bench.Told("CPU added to a command and its answer: the tap", more(tap)-client, "µs", fmt.Sprintf("and %.2f µs at the client's end", client)),
		bench.Told("the same: the gate", more(gate), "µs", fmt.Sprintf("%.2f µs with the brakes of the default configuration, which track connections", more(brakes))),
	)
}

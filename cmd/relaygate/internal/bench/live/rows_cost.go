package live

import (
	"context"
	"fmt"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// settled is how long the machine may take to come to rest.
const settled = 100 * time.Millisecond

func rest(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // between two measurements

// costs are what a Task costs everybody without the daemon. It is done several times
// on each of some connections to the mail port, behind its login.
func (m *measure) costs(t Task) (all []time.Duration) {
	for range pick(m, pairs, 2*pairs-1) {
		m.connected(mailPort, func() {
			for range pick(m, 4, 8) {
				all = append(all, m.cost(func() { must.Get(m.client.do(t)) }))
			}
		})
	}
	return all
}

// downloads reads mail with the daemon and without, in super-segments (GSO) and
// in packets of one MTU. What the daemon adds is far less than what the copies of
// a mail take more or less from one moment to the next. So it is measured where
// none are made, and then set against the whole.
func (m *measure) downloads(ctx context.Context) {
	defer m.offload(true)
	for _, form := range []struct {
		name    string
		offload bool
		goal    float64
		mails   int
		// segment is such that as many packets are sent and acknowledged as where
		// two processes fetch a mail, or more: a megabyte takes 26 and 12 of them
		// with GSO, 730 and 40 without.
		segment int
	}{
		{"with GSO", true, 1.02, 2, 56 << 10},
		{"one MTU per packet", false, 1.08, 1, 28 << 10},
	} {
		m.offload(form.offload)
		whole := m.costs(Task{Verb: "fetch", Count: form.mails, Size: mailSize})
		const piece = 16 << 20
		took := m.takeTurns(ctx, pick(m, 10, 40), func(p pair) time.Duration { return p.fetch(piece, form.segment) },
			[]company{nobody, m.daemon(ctx, pairPort, gateMode), m.least()})
		perMB := micro(bench.Median(whole)) / float64(form.mails*mailSize>>20)
		more := func(who int) float64 { return micro(took[who].all()-took[0].all()) / (piece >> 20) }
		m.Tell(
			bench.AtMost("mail download, CPU with / without: "+form.name, form.goal, 1+more(1)/perMB, "×",
				fmt.Sprintf("%.1f µs/MB more, on %.0f µs/MB of two processes with all copies", more(1), perMB)),
			bench.Told("the same of programs that do nothing, and of the gate", 1+more(2)/perMB, "×",
				fmt.Sprintf("%.1f µs/MB more", more(2))))
	}
}

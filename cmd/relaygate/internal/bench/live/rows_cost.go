package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
)

// settled is how long the machine may take to come to rest.
const settled = 100 * time.Millisecond

func rest(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // between two measurements

// costs are what a Task costs everybody without the daemon. It is done several times
// on each of some connections to the mail port, behind its login.
func (m *measure) costs(t Task) (all []time.Duration, err error) {
	for range pick(m, pairs, 2*pairs-1) {
		if err := m.open(mailPort); err != nil {
			return nil, err
		}
		for range pick(m, 4, 8) {
			spent, failed := m.cost(func() error { _, err := m.client.do(t); return err })
			all, err = append(all, spent), errors.Join(err, failed)
		}
		_, left := m.client.do(Task{Verb: "leave"})
		if err := errors.Join(err, left); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// downloads reads mail with the daemon and without, in super-segments (GSO) and
// in packets of one MTU. What the daemon adds is far less than what the copies of
// a mail take more or less from one moment to the next. So it is measured where
// none are made, and then set against the whole.
func (m *measure) downloads(ctx context.Context) (rows []bench.Row, err error) {
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
		if err := m.offload(form.offload); err != nil {
			return rows, err
		}
		whole, err := m.costs(Task{Verb: "fetch", Count: form.mails, Size: mailSize})
		if err != nil {
			return rows, err
		}
		const piece = 16 << 20
		took, err := m.takeTurns(ctx, pick(m, 10, 40), func(p pair) (time.Duration, error) { return p.fetch(piece, form.segment) },
			[]company{nobody, m.daemon(ctx, pairPort, gateMode)})
		if err != nil {
			return rows, err
		}
		perMB := micro(bench.Median(whole)) / float64(form.mails*mailSize>>20)
		more := micro(took[1].all()-took[0].all()) / (piece >> 20)
		rows = append(rows, bench.AtMost("mail download, CPU with / without: "+form.name, form.goal, 1+more/perMB, "×",
			fmt.Sprintf("%.1f µs/MB more, on %.0f µs/MB of two processes with all copies", more, perMB)))
	}
	return rows, m.offload(true)
}

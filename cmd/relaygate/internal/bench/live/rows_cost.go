//go:build linux

package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"relaygate/cmd/relaygate/internal/bench"
)

// settled is how long the machine may take to come to rest.
const settled = 100 * time.Millisecond

func rest(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // between two measurements

// inTurn measures the cost of a Task to everybody, without the daemon and with
// it, in pairs. Each is made on a fresh connection to the mail port, behind its
// login.
func (m *measure) inTurn(ctx context.Context, t Task) (without, with []time.Duration, err error) {
	one := func() (time.Duration, error) {
		if err := m.open(mailPort); err != nil {
			return 0, err
		}
		spent, err := m.cost(func() error { _, err := m.client.do(t); return err })
		_, left := m.client.do(Task{Verb: "leave"})
		return spent, errors.Join(err, left)
	}
	for range pick(m, pairs, 2*pairs-1) {
		spent, err := one()
		if err != nil {
			return nil, nil, err
		}
		without = append(without, spent)
		err = m.withAgent(ctx, func(*agent) (err error) { spent, err = one(); return err })
		if err != nil {
			return nil, nil, err
		}
		with = append(with, spent)
	}
	return without, with, nil
}

// ratio is the median of a over b, pair by pair.
func ratio(a, b []time.Duration) float64 {
	var list []float64
	for i := range a {
		list = append(list, float64(a[i])/float64(max(b[i], 1)))
	}
	return median(list)
}

// added is the median of a less b, pair by pair.
func added(a, b []time.Duration) time.Duration {
	var list []time.Duration
	for i := range a {
		list = append(list, a[i]-b[i])
	}
	return median(list)
}

// downloads reads mail with the daemon and without, in super-segments (GSO) and
// in packets of one MTU.
func (m *measure) downloads(ctx context.Context) (rows []bench.Row, err error) {
	for _, form := range []struct {
		name    string
		offload bool
		goal    float64
		mails   int
	}{
		{"with GSO", true, 1.02, pick(m, 16, 64)},
		{"one MTU per packet", false, 1.08, pick(m, 4, 16)},
	} {
		if err := m.offload(form.offload); err != nil {
			return rows, err
		}
		without, with, err := m.inTurn(ctx, Task{Verb: "fetch", Count: form.mails, Size: mailSize})
		if err != nil {
			return rows, err
		}
		if os.Getenv("PART") != "" {
			fmt.Fprintln(m.log, without, with)
		}
		megabytes := float64(form.mails * mailSize >> 20)
		rows = append(rows, bench.AtMost("mail download, CPU with / without: "+form.name, form.goal, ratio(with, without), "×",
			fmt.Sprintf("%.0f MB, %.0f µs/MB without", megabytes, micro(median(without))/megabytes)))
	}
	return rows, m.offload(true)
}

// exchanges has commands answered behind the login: without anybody, with the
// daemon, and with the reader of a TPACKET_V3 ring.
func (m *measure) exchanges(ctx context.Context) (rows []bench.Row, err error) {
	t := Task{Verb: "exchange", Count: pick(m, 30_000, 100_000)}
	var alone, reader, daemon []time.Duration
	one := func(into *[]time.Duration) error {
		if err := m.open(mailPort); err != nil {
			return err
		}
		spent, err := m.cost(func() error { _, err := m.client.do(t); return err })
		*into = append(*into, spent/time.Duration(t.Count))
		_, left := m.client.do(Task{Verb: "leave"})
		return errors.Join(err, left)
	}
	for range pick(m, pairs, 2*pairs-1) {
		if err := one(&alone); err != nil {
			return nil, err
		}
		h, err := startHelper(ctx, m.serverNS, m.groups["agent"], "reader")
		if err != nil {
			return nil, err
		}
		if err := errors.Join(one(&reader), h.stop()); err != nil {
			return nil, err
		}
		if err := m.withAgent(ctx, func(*agent) error { return one(&daemon) }); err != nil {
			return nil, err
		}
	}
	if os.Getenv("PART") != "" {
		fmt.Fprintln(m.log, alone, reader, daemon)
	}
	byReader, byDaemon := added(reader, alone), added(daemon, alone)
	note := fmt.Sprintf("%.2f µs, TPACKET_V3 %.2f µs, on %.1f µs without either", micro(byDaemon), micro(byReader), micro(median(alone)))
	return []bench.Row{
		bench.AtMost("CPU added to a command and its answer / by TPACKET_V3", 1.0/3, float64(byDaemon)/float64(max(byReader, 1)), "×", note),
	}, nil
}

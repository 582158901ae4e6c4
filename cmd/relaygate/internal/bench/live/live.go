// Package live measures the daemon at work: a mail server and its clients on two
// machines (network namespaces) with a cable between them (a veth pair), with
// and without relaygate in turn, so that what disturbs the machine disturbs
// both.
//
// Programs beside it stand on the other side: a bare mail server and clients
// (this program again, as a helper process), a reader of a TPACKET_V3 ring, and
// in the folder peer the least that a C program can do with the same wake-up.
package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// Section is the live half of the table.
func Section() bench.Section { return bench.Section{Name: "live", Measure: measureAll} }

// measure is what the parts of the section share.
type measure struct {
	*world
	*bench.Config
}

func measureAll(ctx context.Context, c *bench.Config) {
	m := &measure{world: &world{groups: make(groups)}, Config: c}
	defer m.End(m.close)
	m.build(ctx)
	for _, part := range []struct {
		name    string
		measure func(context.Context)
	}{
		{"after the verdict", m.afterVerdict},
		{"packets", m.packets},
		{"downloads", m.downloads},
		{"exchanges", m.exchanges},
		{"latency", m.latency},
		{"knocks", m.knocks},
		{"storm", m.storm},
		{"paced", m.paced},
		{"growth", m.growth},
		{"memory", m.memory},
		{"pipeline", m.pipeline},
		{"log tailers", m.tailers},
	} {
		if !strings.Contains(part.name, c.Part) {
			continue
		}
		start := time.Now()
		err := must.Try(func() { part.measure(ctx) })
		fmt.Fprintf(c.Log, "  %s: %.1f s\n", part.name, time.Since(start).Seconds())
		if err := errors.Join(err, m.Failed()); err != nil {
			must.Do(fmt.Errorf("%s: %w", part.name, err))
		}
	}
}

// pairs is how often each comparison is made.
const pairs = 5

// pick is the quick or the full form's figure.
func pick[T any](m *measure, quick, full T) T {
	if m.Full {
		return full
	}
	return quick
}

// withAgent runs do while the daemon runs.
func (m *measure) withAgent(ctx context.Context, do func(*lab.Daemon)) {
	m.withGate(ctx, gateMode, do)
}

// withTimes is withAgent while the kernel measures how long BPF programs run.
func (m *measure) withTimes(ctx context.Context, do func(*lab.Daemon)) {
	stats := must.Get(ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME)))
	defer m.End(stats.Close)
	m.withAgent(ctx, do)
}

// percentile of values, 0 to 100; of none it is 0.
func percentile[T ~int64 | ~float64](values []T, p float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(float64(len(sorted))*p/100), len(sorted)-1)]
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

package live

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// growth measures packets beside more and more connections that are followed.
func (m *measure) growth(ctx context.Context) {
	m.withPacketTimer(ctx, func(t *packetTimer) {
		defer m.End(func() error { _, err := m.client.do(Task{Verb: "go"}); return err })
		var times []float64
		open := 0
		for _, flows := range []int{10, 100, 1000, 10_000} {
			must.Get(m.client.do(Task{Verb: "stay", First: m.addresses(flows - open), Count: flows - open}))
			open = flows
			var each []float64
			for range pairs {
				each = append(each, m.timePackets(t, mailPort, pick(m, 5000, 30_000)))
			}
			times = append(times, bench.Median(each))
			m.Tell(bench.Told(fmt.Sprintf("beside %d connections: BPF per packet", flows), bench.Median(each), "ns", "both ends' packets, above an empty program"))
		}
		m.Tell(bench.AtMost("BPF per packet, beside most / fewest connections", 1.5, times[len(times)-1]/times[0], "×", "does not grow"))
	})
}

// memory says what a connection takes in the kernel and a grant in the daemon.
func (m *measure) memory(ctx context.Context) {
	m.withAgent(ctx, func(a *lab.Daemon) {
		m.withObjects(a.PID(), func(o *objects) {
			const over = 8 // bytes per connection: OVER_PLACES of bpf/src/packets.h
			places := float64(o.maps["flows"].MaxEntries())
			flows, tls := o.charged("flows")+over*places, o.charged("randoms", "hellos")
			m.Tell(bench.AtMost("kernel memory per tracked connection", 160, flows/places, "bytes",
				fmt.Sprintf("%.1f MB for %.0f; %.1f MB more for the random numbers of as many in TLS", flows/(1<<20), places, tls/(1<<20))))
		})
	})
	figures := goBench(ctx, "./authz/grant", "BenchmarkMillionGrants$", "1x")
	f := func(unit string) float64 { return figures("MillionGrants", unit) }
	m.Tell(
		bench.AtMost("heap per grant", 80, f("B/grant"), "bytes", fmt.Sprintf("core %.0f; %.0f more where users and logins are told", f("core-B/grant"), f("B/detail"))),
		bench.AtMost("resident with a million grants", 90, f("resident-MB"), "MB", "a process with the table and a million users"),
	)
}

// charged is what the kernel says that maps take, in bytes.
func (o *objects) charged(names ...string) (sum float64) {
	for _, name := range names {
		bytes, ok := must.Get(o.maps[name].Info()).Memlock()
		if !ok {
			must.Do(errors.New("the kernel does not say how large a BPF map is"))
		}
		sum += float64(bytes)
	}
	return sum
}

// pipeline plays logins into what stands between the tap and the kernel, beside
// more and more grants, and 20,000 a second.
func (m *measure) pipeline(ctx context.Context) {
	const pkg = "./cmd/relaygate/internal/daemon"
	figures := goBench(ctx, pkg, "BenchmarkPipelineKeepsUp$", strconv.Itoa(pick(m, 20_000, 200_000))+"x")
	f := func(unit string) float64 { return figures("PipelineKeepsUp", unit) }
	m.Tell(
		bench.AtLeast("20,000 logins a second into the pipeline: done", 0.99*20_000, f("logins/s"), "1/s", "to the kernel's set, evidence and state file"),
		bench.Told("20,000 logins a second: behind, p99", f("ms-behind-p99"), "ms", fmt.Sprintf("p50 %.2f, at most %.1f", f("ms-behind-p50"), f("ms-behind-max"))),
		bench.AtMost("20,000 logins a second: longest queue of the gate", 8192, f("queue-max"), "", "its bound; above it the set is rebuilt"),
	)
	// So many that what the load of a million leaves to be put in its place in the state
	// file does not count for more than what they leave themselves.
	figures = goBench(ctx, pkg, pick(m, "BenchmarkPipeline$/held=.{1,5}$", "BenchmarkPipeline$"), strconv.Itoa(pick(m, 10_000, 300_000))+"x")
	var first, last float64
	for _, held := range []string{"0", "1000", "30000", "1000000"} {
		each := func(unit string) float64 { return figures("Pipeline/held="+held, unit) }
		if each("ns/op") == 0 {
			continue // the quick form leaves it out
		}
		last = each("ns/op")
		if first == 0 {
			first = last
		}
		m.Tell(bench.Told("beside "+held+" grants: a login through the pipeline", last/1e3, "µs", fmt.Sprintf("%.0f B in %.0f allocations", each("B/op"), each("allocs/op"))))
	}
	m.Tell(bench.AtMost("a login through the pipeline, beside most / no grants", 2, last/max(first, 1), "×", "does not grow with the table"))
}

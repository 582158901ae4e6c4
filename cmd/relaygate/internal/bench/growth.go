package bench

import (
	"context"
	"fmt"
	"os"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// growth replays captures of four sizes, each twice the one before: time grows
// as they do, memory does not.
func growth(ctx context.Context, c *Config) {
	const sizes, rounds = 4, 5
	for _, l := range loads() {
		sessions := max(l.quick/8, 1)
		if c.Full {
			sessions = l.full / 8
		}
		var perMB []float64
		name := l.profile(1).Name
		most, least := int64(0), int64(1<<62)
		for range sizes {
			p := l.profile(sessions)
			p.Clients = l.profile(l.quick).Clients // of which there are as many
			sessions *= 2
			file, truth := c.capture(ctx, p)
			runs := inTurn(ctx, rounds, []string{c.Relaygate, "replay", "--json", file})
			must.Do(os.Remove(file))
			cpu := runs.typical(0, cpuOf)
			perMB = append(perMB, cpu.Seconds()*1e6/(float64(truth.Bytes)/1e6))
			most, least = max(most, runs.resident(0)), min(least, runs.resident(0))
			c.Tell(Told(fmt.Sprintf("%s, %d MB: CPU per MB", p.Name, truth.Bytes>>20), perMB[len(perMB)-1], "µs",
				fmt.Sprintf("%.0f ms, %.1f MB resident", cpu.Seconds()*1e3, float64(runs.resident(0))/(1<<20))))
		}
		c.Tell(
			AtMost(name+": CPU per MB, largest / smallest", 1.2, perMB[sizes-1]/perMB[0], "×", "linear"),
			AtMost(name+": resident, most - least", 8, float64(most-least)/(1<<20), "MB", "flat"),
		)
	}
}

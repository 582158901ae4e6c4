package live

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// goBench runs benchmarks of a package and returns their figures by name and
// unit.
func goBench(ctx context.Context, pkg, pattern, span string) func(name, unit string) float64 {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", span, "-timeout", "5m", pkg).Output()
	if err != nil {
		must.Do(fmt.Errorf("benchmarks of %s: %w: %s", pkg, err, out))
	}
	figures := parseBenchmarks(string(out))
	return func(name, unit string) float64 { return figures[benchFigure{name, unit}] }
}

type benchFigure struct{ name, unit string }

// parseBenchmarks reads the output of go test -bench.
func parseBenchmarks(out string) map[benchFigure]float64 {
	figures := make(map[benchFigure]float64)
	for line := range strings.Lines(out) {
		name, isOne := strings.CutPrefix(line, "Benchmark")
		words := strings.Fields(name)
		if !isOne || len(words) == 0 {
			continue
		}
		name = words[0]
		if at := strings.LastIndexByte(name, '-'); at > 0 { // the number of processors
			name = name[:at]
		}
		for i := 2; i+1 < len(words); i += 2 {
			if value, err := strconv.ParseFloat(words[i], 64); err == nil {
				figures[benchFigure{name, words[i+1]}] = value
			}
		}
	}
	return figures
}

package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// functions runs the benchmarks of the packages. Their output is kept as
// benchstat reads it.
func functions(ctx context.Context, c *Config) ([]Row, error) {
	count, span := "1", "100ms"
	if c.Full {
		count, span = "6", "1s"
	}
	var out bytes.Buffer
	_, err := measure(ctx, &out, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-count", count, "-benchtime", span,
		"./authz/...", "./capture/...", "./nft/...")
	if _, e := c.Bench.Write(out.Bytes()); e != nil {
		return nil, fmt.Errorf("keep benchmarks: %w", e)
	}
	if err != nil {
		return nil, err
	}
	return parseBenchmarks(&out), nil
}

// parseBenchmarks reads the output of go test -bench: of each benchmark the
// median of its times.
func parseBenchmarks(out *bytes.Buffer) []Row {
	var names []string
	times := make(map[string][]float64)
	notes := make(map[string]string)
	pkg := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 2 && words[0] == "pkg:" {
			pkg = strings.TrimPrefix(words[1], "relaygate/")
		}
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") || words[3] != "ns/op" {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(words[0], "Benchmark"), "-")
		name = pkg + " " + name
		ns, err := strconv.ParseFloat(words[2], 64)
		if err != nil {
			continue
		}
		if times[name] == nil {
			names = append(names, name)
		}
		times[name] = append(times[name], ns)
		notes[name] = strings.Join(words[4:], " ")
	}
	var rows []Row
	for _, name := range names {
		rows = append(rows, Told(name, Median(times[name]), "ns", notes[name]))
	}
	return rows
}

package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// functions runs the benchmarks of the packages. Their output is kept as
// benchstat reads it.
func functions(ctx context.Context, c *Config) (rows []Row, err error) {
	count, span := "1", "100ms"
	if c.Full {
		count, span = "6", "1s"
	}
	all, err := GoBench(ctx, c.Bench, "-bench", ".", "-benchmem", "-count", count, "-benchtime", span, "./authz/...", "./capture/...", "./nft/...")
	for _, b := range all {
		const time = "ns/op"
		var notes []string
		for _, unit := range b.units {
			if unit != time {
				notes = append(notes, fmt.Sprintf("%g %s", b.Figure(unit), unit))
			}
		}
		rows = append(rows, Told(b.Package+" "+b.Name, b.Figure(time), "ns", strings.Join(notes, " ")))
	}
	return rows, err
}

// Benchmark is what go test says of one.
type Benchmark struct {
	Package, Name string
	units         []string // in its order
	values        map[string][]float64
}

// Figure is the median in a unit, 0 if it has none.
func (b *Benchmark) Figure(unit string) float64 {
	if len(b.values[unit]) == 0 {
		return 0
	}
	return Median(b.values[unit])
}

// GoBench runs benchmarks with some arguments of go test. Their output goes to keep as well.
func GoBench(ctx context.Context, keep io.Writer, args ...string) ([]*Benchmark, error) {
	var out bytes.Buffer
	_, err := measure(ctx, io.MultiWriter(&out, keep), "go", append([]string{"test", "-run", "^$"}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, &out)
	}
	return parseBenchmarks(&out), nil
}

// parseBenchmarks reads the output of go test -bench.
func parseBenchmarks(out io.Reader) (list []*Benchmark) {
	pkg := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 2 && words[0] == "pkg:" {
			pkg = strings.TrimPrefix(words[1], "relaygate/")
		}
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(words[0], "Benchmark")
		if at := strings.LastIndexByte(name, '-'); at > 0 { // the number of processors
			name = name[:at]
		}
		at := slices.IndexFunc(list, func(b *Benchmark) bool { return b.Package == pkg && b.Name == name })
		if at < 0 {
			at = len(list)
			list = append(list, &Benchmark{Package: pkg, Name: name, values: make(map[string][]float64)})
		}
		b := list[at]
		for i := 2; i+1 < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				break
			}
			unit := words[i+1]
			if b.values[unit] == nil {
				b.units = append(b.units, unit)
			}
			b.values[unit] = append(b.values[unit], value)
		}
	}
	return list
}

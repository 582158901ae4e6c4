package live

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// spent is the processor time of the groups, of all processes that were ever in
// them, in user space and in the kernel, with what interrupts did meanwhile.
func (g groups) spent(names ...string) (time.Duration, error) {
	sum := time.Duration(0)
	for _, name := range names {
		file := filepath.Join(g[name], "cpu.stat")
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		us, err := statValue(string(b), "usage_usec")
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(us) * time.Microsecond
	}
	return sum, nil
}

// statValue finds a number in lines of a name and a number.
func statValue(text, name string) (int64, error) {
	for l := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(l, name+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// everybody are the processes that a mail host and its clients need.
var everybody = []string{"server", "client", "agent"}

// cost is the processor time of everybody while do runs.
func (w *world) cost(do func() error) (time.Duration, error) {
	before, err := w.groups.spent(everybody...)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := w.groups.spent(everybody...)
	return after - before, err
}

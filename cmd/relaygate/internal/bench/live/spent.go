package live

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// spent is the processor time of the groups, of all processes that were ever in
// them, in user space and in the kernel, with what interrupts did meanwhile.
func (g groups) spent(names ...string) (sum time.Duration) {
	for _, name := range names {
		b := must.Get(os.ReadFile(filepath.Join(g[name], "cpu.stat")))
		sum += time.Duration(statValue(string(b), "usage_usec")) * time.Microsecond
	}
	return sum
}

// statValue finds a number in lines of a name and a number.
func statValue(text, name string) int64 {
	for l := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(l, name+" "); ok {
			return must.Get(strconv.ParseInt(strings.TrimSpace(value), 10, 64))
		}
	}
	must.Do(fmt.Errorf("no %s", name))
	return 0
}

// everybody are the processes that a mail host and its clients need.
var everybody = []string{"server", "client", "agent"}

// cost is the processor time of everybody while do runs.
func (w *world) cost(do func()) time.Duration {
	before := w.groups.spent(everybody...)
	do()
	return w.groups.spent(everybody...) - before
}

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// Machine says where and when the figures were measured.
type Machine struct {
	CPU    string    `json:"cpu"`
	Kernel string    `json:"kernel"`
	Cores  int       `json:"cores"`
	Time   time.Time `json:"time"`
	Full   bool      `json:"full"`
}

// ThisMachine describes the machine.
func ThisMachine(cores int, now time.Time, full bool) Machine {
	m := Machine{Cores: cores, Time: now.UTC().Truncate(time.Second), Full: full}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(model)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	return m
}

// sample is what one run of a program cost.
type sample struct {
	cpu, wall time.Duration
	resident  int64 // the most memory that was resident, in bytes
}

// measure runs a program to its end. Its output goes to out, nil for nowhere.
func measure(ctx context.Context, out io.Writer, program string, args ...string) sample {
	cmd := exec.CommandContext(ctx, program, args...)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errs
	forgetPeak()
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		must.Do(fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, &errs))
	}
	s := sample{wall: time.Since(begin), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.resident = usage.Maxrss << 10
	}
	return s
}

// forgetPeak gives memory back and lets the kernel forget how much there was
// (proc_pid_clear_refs(5)): a child begins with the peak of its parent as if it
// had been its own.
func forgetPeak() {
	debug.FreeOSMemory()
	must.Do(os.WriteFile("/proc/self/clear_refs", []byte("5"), 0))
}

// Median of at least one value.
func Median[T ~int64 | ~float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// pairs are runs of several programs in turn, so that what disturbs the machine
// disturbs all of them.
type pairs [][]sample // by program

// inTurn runs each program n times.
func inTurn(ctx context.Context, n int, programs ...[]string) pairs {
	p := make(pairs, len(programs))
	for range n {
		for i, args := range programs {
			p[i] = append(p[i], measure(ctx, nil, args[0], args[1:]...))
		}
	}
	return p
}

// ratio is the median of one program's figure over another's, pair by pair.
func (p pairs) ratio(over, under int, of func(sample) time.Duration) float64 {
	var ratios []float64
	for i := range p[over] {
		ratios = append(ratios, float64(of(p[over][i]))/float64(max(of(p[under][i]), 1)))
	}
	return Median(ratios)
}

// typical is the median of one program's figure.
func (p pairs) typical(program int, of func(sample) time.Duration) time.Duration {
	var values []time.Duration
	for _, s := range p[program] {
		values = append(values, of(s))
	}
	return Median(values)
}

// resident is the most that a program ever held, in bytes.
func (p pairs) resident(program int) int64 {
	most := int64(0)
	for _, s := range p[program] {
		most = max(most, s.resident)
	}
	return most
}

func cpuOf(s sample) time.Duration  { return s.cpu }
func wallOf(s sample) time.Duration { return s.wall }

// status reads a figure of a process in kB (proc_pid_status(5)), as bytes.
func status(pid, name string) int64 { return figure("/proc/"+pid+"/status", name) }

// meminfo reads one of the whole machine (proc_meminfo(5)).
func meminfo(name string) int64 { return figure("/proc/meminfo", name) }

func figure(file, name string) int64 {
	for line := range strings.Lines(string(must.Get(os.ReadFile(file)))) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return must.Get(strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)) << 10
		}
	}
	must.Do(fmt.Errorf("%s has no %s", file, name))
	return 0
}

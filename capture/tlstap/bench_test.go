package tlstap

import (
	"os"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/capture/sockdiag"
)

// BenchmarkScan looks at this host, with this process as its server: once as
// ever, once reading all mappings again.
func BenchmarkScan(b *testing.B) {
	bpftest.RequireRoot(b)
	stat, err := sockdiag.ReadStat(os.DirFS("/proc"), os.Getpid())
	must(b, err)
	for _, force := range []bool{false, true} {
		b.Run(map[bool]string{false: "idle", true: "forced"}[force], func(b *testing.B) {
			tables := &fakeTables{changed: make(chan struct{})}
			l := held(imaps, 1, os.Getpid())
			l.Processes[0].Start = stat.Start
			tables.set(l)
			f, err := New(Options{Tap: &fakeTap{}, Tables: tables, Log: silent()})
			must(b, err)
			defer f.detach()
			f.scan(time.Now(), true)
			b.ReportAllocs()
			for b.Loop() {
				f.scan(time.Now(), force)
			}
			entries, err := os.ReadDir("/proc")
			must(b, err)
			b.ReportMetric(float64(len(entries)), "procs")
		})
	}
}

package bpf_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// BenchmarkTLSCalls says how much processor time a call of a TLS library takes
// that writes five bytes, with and without probes on it.
func BenchmarkTLSCalls(b *testing.B) {
	d := buildTLSD(b, bpf.OpenSSL)
	ns := bpftest.Namespace(b)
	tap := load(b, ns)
	server := d.serve(b, ns, addr)
	if err := tap.SetServers(nil); err != nil { // from now on handshakes are noted
		b.Fatal(err)
	}
	c := dialTLS(b, ns, addr)
	// The calls show a connection that is done.
	must(b, tap.SetDone(cookieOf(b, rest(b, tap), c)))
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(b, err)
	defer bpftest.Close(b, stats)
	run := func(name string, random []byte, servers []bpf.ServerProcess, attach func() (*bpf.LibraryProbes, error)) {
		b.Run(name, func(b *testing.B) {
			must(b, tap.SetServers(servers))
			var probes *bpf.LibraryProbes
			if attach != nil {
				var err error
				probes, err = attach()
				if errors.Is(err, ebpf.ErrNotSupported) {
					b.Skip(err)
				}
				must(b, err)
				defer bpftest.Close(b, probes)
			}
			const calls = 20000
			var sum float64
			for b.Loop() {
				cmd := exec.Command(d.program, "calls", hex.EncodeToString(random), fmt.Sprint(calls), d.cert, d.key)
				out, err := cmd.Output()
				must(b, err)
				one, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
				must(b, err)
				sum += one
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(sum/float64(b.N), "ns/call")
			if probes != nil {
				b.ReportMetric(probes.Spent(b).Each(), "ns/program")
				b.ReportMetric(float64(probes.Spent(b).Runs)/float64(b.N)/calls, "programs/call")
			}
		})
	}
	own := make([]byte, 32)
	run("no probes", own, nil, nil)
	for _, way := range []bpf.Way{bpf.ByPerf, bpf.ByMulti, bpf.BySession} {
		attach := func() (*bpf.LibraryProbes, error) { return tap.AttachLibraryBy(way, d.library) }
		run(way.String()+"/another program's", own, []bpf.ServerProcess{server}, attach)
		// The caller's parent is this process.
		run(way.String()+"/after the verdict", c.random(), []bpf.ServerProcess{server, process(b, os.Getpid())}, attach)
	}
}

// BenchmarkTLSLogin says how many records a login through TLS makes.
func BenchmarkTLSLogin(b *testing.B) {
	d := buildTLSD(b, bpf.OpenSSL)
	ns := bpftest.Namespace(b)
	tap := load(b, ns)
	attach(b, tap, d, d.serve(b, ns, addr))
	records, plaintexts := 0, 0
	for b.Loop() {
		c := dialTLS(b, ns, addr)
		got := collect(b, tap, kind(bpf.Handshake))
		cookie := cookieOf(b, got, c)
		must(b, tap.SetEncrypted(cookie))
		c.say(b, "USER a\r\n")
		c.say(b, "PASS a\r\n")
		got = append(got, answers(b, tap, 2)...)
		must(b, tap.SetDone(cookie))
		bpftest.Close(b, c)
		got = append(got, collect(b, tap, kind(bpf.Closed))...)
		records += len(got)
		plaintexts += count(got, bpf.Plain)
	}
	b.ReportMetric(float64(records)/float64(b.N), "records/op")
	b.ReportMetric(float64(plaintexts)/float64(b.N), "plaintexts/op")
}

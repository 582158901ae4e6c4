package bpf_test

import (
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// BenchmarkTLSCalls says what the probes add to a command and its answer: one
// call that reads and one that writes.
func BenchmarkTLSCalls(b *testing.B) {
	d := buildTLSD(b, bpf.OpenSSL)
	ns := bpftest.Namespace(b)
	tap := load(b, ns)
	server := d.serve(b, ns, addr)
	run := func(name string, servers []bpf.ServerProcess, probed bool, set func(uint64) error) {
		b.Run(name, func(b *testing.B) {
			if probed {
				defer bpftest.Close(b, attach(b, tap, d, servers...))
			}
			c := dialTLS(b, ns, addr)
			defer bpftest.Close(b, c)
			c.say(b, "NOOP\r\n")
			if err := set(cookieOf(b, rest(b, tap), c)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				c.say(b, "NOOP\r\n")
			}
			b.StopTimer()
			rest(b, tap)
		})
	}
	family := []bpf.ServerProcess{server}
	run("no probes", nil, false, tap.SetDone)
	run("another program's", nil, true, tap.SetDone)
	run("after the verdict", family, true, tap.SetDone)
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
		if err := tap.SetEncrypted(cookie); err != nil {
			b.Fatal(err)
		}
		c.say(b, "USER a\r\n")
		c.say(b, "PASS a\r\n")
		got = append(got, answers(b, tap, 2)...)
		if err := tap.SetDone(cookie); err != nil {
			b.Fatal(err)
		}
		bpftest.Close(b, c)
		got = append(got, collect(b, tap, kind(bpf.Closed))...)
		records += len(got)
		plaintexts += count(got, bpf.Plain)
	}
	b.ReportMetric(float64(records)/float64(b.N), "records/op")
	b.ReportMetric(float64(plaintexts)/float64(b.N), "plaintexts/op")
}

package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/bench/traffic"
)

// BenchmarkReplay replays captures that are in memory.
func BenchmarkReplay(b *testing.B) {
	for _, p := range []traffic.Profile{traffic.Logins(4000), traffic.Downloads(40), traffic.Mixed(200)} {
		b.Run(p.Name, func(b *testing.B) {
			var file bytes.Buffer
			truth, err := traffic.Generate(&file, p)
			must(b, err)
			b.SetBytes(truth.Bytes)
			b.ReportAllocs()
			for b.Loop() {
				e := &env{
					Stdin: bytes.NewReader(file.Bytes()), Stdout: io.Discard, Stderr: io.Discard,
					Now: time.Now, Getenv: func(string) string { return "" },
				}
				must(b, run(b.Context(), e, []string{"replay", "--json", "-"}))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(truth.Packets), "ns/packet")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(truth.Succeeded+truth.Failed), "ns/login")
		})
	}
}

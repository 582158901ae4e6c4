package live

import (
	"maps"
	"testing"
)

func TestParseBenchmarks(t *testing.T) {
	got := parseBenchmarks(`pkg: relaygate/capture
BenchmarkFrame/other-2   	 100	 7.5 ns/op	 3 B/op	 0 allocs/op
BenchmarkFrame
PASS
`)
	want := map[benchFigure]float64{{"Frame/other", "ns/op"}: 7.5, {"Frame/other", "B/op"}: 3, {"Frame/other", "allocs/op"}: 0}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/bench/traffic"
)

func TestWalk(t *testing.T) {
	var file bytes.Buffer
	truth, err := traffic.Generate(&file, traffic.Downloads(2))
	if err != nil {
		t.Fatal(err)
	}
	packets, size, err := Walk(&file)
	if err != nil || packets != truth.Packets || size != truth.Bytes-24-16*packets {
		t.Errorf("walked over %d packets of %d bytes, want %d: %v", packets, size, truth.Packets, err)
	}
}

func TestRows(t *testing.T) {
	for _, tt := range []struct {
		row   Row
		met   bool
		ratio float64
	}{
		{AtLeast("", 10, 20, "", ""), true, 2},
		{AtLeast("", 10, 9, "", ""), false, 0.9},
		{AtMost("", 10, 9, "", ""), true, 0.9},
		{AtMost("", 10, 20, "", ""), false, 2},
		{AtMost("", 0, 1, "", ""), false, 0},
		{Told("", 5, "", ""), true, 0},
	} {
		if tt.row.Met() != tt.met || tt.row.Ratio() != tt.ratio {
			t.Errorf("%+v: met %v, ratio %v", tt.row, tt.row.Met(), tt.row.Ratio())
		}
	}
	rows := []Row{{Section: "one", Name: "a"}, AtLeast("b", 2, 1, "×", "")}
	var text, object bytes.Buffer
	if err := Print(&text, rows); err != nil || !strings.Contains(text.String(), "MISSED") {
		t.Errorf("%v: %s", err, text.String())
	}
	if err := WriteJSON(&object, ThisMachine(2, time.Unix(1, 0), false), rows); err != nil || !json.Valid(object.Bytes()) {
		t.Errorf("%v: %s", err, object.String())
	}
}

func TestParseBenchmarks(t *testing.T) {
	list := parseBenchmarks(bytes.NewBufferString(`pkg: relaygate/capture
BenchmarkFrame/other-2   	 100	 5.0 ns/op	 0 B/op	 0 allocs/op
BenchmarkFrame/other-2   	 100	 9.0 ns/op	 0 B/op	 0 allocs/op
BenchmarkFrame/other-2   	 100	 7.0 ns/op	 3 B/op	 0 allocs/op
PASS
`))
	if len(list) != 1 || list[0].Package != "capture" || list[0].Name != "Frame/other" || list[0].Figure("ns/op") != 7 || list[0].Figure("MB/s") != 0 ||
		strings.Join(list[0].units, " ") != "ns/op B/op allocs/op" {
		t.Errorf("got %+v", list)
	}
}

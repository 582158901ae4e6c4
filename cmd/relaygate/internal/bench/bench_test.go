package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
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
	err := WriteJSON(&object, ThisMachine(2, time.Unix(1, 0), false), rows)
	var got struct {
		Cores int
		Rows  []map[string]any
	}
	if err = errors.Join(err, json.Unmarshal(object.Bytes(), &got)); err != nil || got.Cores != 2 || len(got.Rows) != 2 {
		t.Fatalf("%v: %s", err, object.String())
	}
	want := map[string]any{"section": "", "name": "b", "goal": 2.0, "measured": 1.0, "ratio": 0.5, "unit": "×"}
	if got.Rows[0]["ratio"] != 0.0 || !maps.Equal(got.Rows[1], want) {
		t.Errorf("rows are %v", got.Rows)
	}
}

package flow

import (
	"testing"

	"relaygate/authz"
	"relaygate/capture"
)

// TestWhole: of what the server acknowledges at once it is told whether one segment
// brought it, as else the server may have read it in parts.
func TestWhole(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
		want  string // an octet for each chunk: w where it came at once
	}{
		{"one segment", []step{cl(0, "ABCD"), sv(0, 4, "")}, "w"},
		{"the same twice", []step{cl(0, "ABCD"), cl(0, "ABCD"), sv(0, 4, "")}, "w"},
		{"two, acknowledged together", []step{cl(0, "AB"), cl(2, "CD"), sv(0, 4, "")}, "-"},
		{"two in the wrong order", []step{cl(2, "CD"), cl(0, "AB"), sv(0, 4, "")}, "-"},
		{"all of it behind a part", []step{cl(0, "AB"), cl(0, "ABCD"), sv(0, 4, "")}, "-"},
		{"a part behind all of it", []step{cl(0, "ABCD"), cl(0, "AB"), sv(0, 4, "")}, "-"},
		{"a part from its middle", []step{cl(0, "ABCD"), cl(2, "CD"), sv(0, 4, "")}, "-"},
		{"each acknowledged", []step{cl(0, "AB"), sv(0, 2, ""), cl(2, "CD"), sv(0, 4, "")}, "ww"},
		{"one acknowledged in parts", []step{cl(0, "ABCD"), sv(0, 2, ""), sv(0, 4, "")}, "--"},
		{"one behind it", []step{cl(0, "ABCD"), sv(0, 2, ""), sv(0, 4, ""), cl(4, "EF"), sv(0, 6, "")}, "--w"},
		{"again with more behind it", []step{cl(0, "AB"), sv(0, 2, ""), cl(0, "ABCD"), sv(0, 4, "")}, "ww"},
		{"with the end", []step{cl(0, "ABCD", plus(capture.FIN)), sv(0, 5, "")}, "w"},
	} {
		for name, m := range modes {
			table := newTable(Limits{})
			got := ""
			for _, st := range begin(m, tt.steps) {
				var ev capture.Event
				st(m, &ev)
				ev.Time = start
				for _, e := range table.Feed(&ev) {
					switch {
					case e.Kind != Data || e.Chunk.Dir != authz.FromClient:
					case e.Chunk.Whole:
						got += "w"
					default:
						got += "-"
					}
				}
			}
			if got != tt.want {
				t.Errorf("%s, %s: got %q, want %q", tt.name, name, got, tt.want)
			}
		}
	}
}

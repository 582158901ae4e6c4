package hostinfo

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTrackingFull(t *testing.T) {
	for _, tt := range []struct {
		count, most string // "" if there is no such file
		want        int
	}{
		{"", "", 0},
		{"", "262144\n", 0},
		{"7\n", "", 0},
		{"7\n", "0\n", 0}, // no bound
		{"7\n", "64\n", 0},
		{"0\n", "262144\n", 0},
		{"200000\n", "262144\n", 0},
		{"262000\n", "262144\n", 262144},
		{"262145\n", "262144\n", 262144}, // for a moment
	} {
		folder := t.TempDir()
		for name, text := range map[string]string{"nf_conntrack_count": tt.count, "nf_conntrack_max": tt.most} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := trackingFull(folder); got != tt.want {
			t.Errorf("%q of %q: %d, want %d", tt.count, tt.most, got, tt.want)
		}
	}
}

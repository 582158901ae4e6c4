package authz

import (
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                               "0 s",
		400 * time.Millisecond:          "0 s",
		90 * time.Second:                "90 s",
		2*time.Minute - 1:               "2 min",
		29*time.Minute + 59*time.Second: "30 min",
		30 * time.Minute:                "30 min",
		2*time.Hour - 20*time.Second:    "2 h",
		47*time.Hour + 40*time.Minute:   "2 days",
		26 * time.Hour:                  "26 h",
		7 * 24 * time.Hour:              "7 days",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
	if now, past := Ago(300*time.Millisecond), Ago(12*time.Minute); now != "just now" || past != "12 min ago" {
		t.Errorf("Ago = %q, %q", now, past)
	}
}

package authz

import (
	"fmt"
	"time"
)

// Span tells how long something takes, as people do: "90 s", "12 min", "26 h",
// "3 days".
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	d = d.Round(time.Second)
	for _, unit := range []struct {
		below, length time.Duration
		name          string
	}{
		{2 * time.Minute, time.Second, "s"}, {2 * time.Hour, time.Minute, "min"}, {2 * day, time.Hour, "h"},
	} {
		if n := d.Round(unit.length); n < unit.below {
			return fmt.Sprintf("%d %s", n/unit.length, unit.name)
		}
	}
	return fmt.Sprintf("%d days", d.Round(day)/day)
}

// Ago tells how long something is past: "12 min ago", "just now".
func Ago(d time.Duration) string {
	if d.Round(time.Second) <= 0 {
		return "just now"
	}
	return Span(d) + " ago"
}

// Count tells how many: "1 login", "2 logins".
func Count[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

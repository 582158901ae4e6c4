package grant

import "time"

// tick is the unit in which the table keeps time: 32 bits of it span two years.
// Deadlines are rounded down, so that a grant ends up to two ticks early and
// never late.
const tick = time.Second / 64

// origin is the tick at which the clock starts, so that what began before it
// can be told; rebaseAt is when the clock is set back to origin, long before
// the 32 bits run out for the longest lifetime.
const (
	origin   = 1 << 30 // 194 days
	rebaseAt = 1 << 31 // 388 days
)

// ticks turns a duration into ticks, rounded down.
func ticks(d time.Duration) uint32 {
	return uint32(min(max(d, 0), MaxLifetime) / tick)
}

// clock turns times into ticks, by the monotonic clock where the times have its
// reading.
type clock struct {
	// base is the time of tick 0, last the latest time seen.
	base, last time.Time
}

// see takes note of the time and returns it in ticks. It reports how many ticks
// every tick that is kept must be set back, mostly none.
func (c *clock) see(now time.Time) (at, back uint32) {
	if c.base.IsZero() {
		c.base, c.last = now.Add(-origin*tick), now
	}
	if now.Sub(c.last) > 0 {
		c.last = now
	}
	at = c.ticks(now)
	if at < rebaseAt {
		return at, 0
	}
	c.base = now.Add(-origin * tick)
	return origin, at - origin
}

func (c *clock) ticks(now time.Time) uint32 {
	return uint32(min(max(now.Sub(c.base)/tick, 0), 1<<32-1))
}

// time tells ticks as a time, counted from the latest time seen: a step of the
// wall clock since then moves what is shown, not what is left.
func (c *clock) time(at uint32) time.Time {
	return c.last.Add(time.Duration(at)*tick - c.last.Sub(c.base))
}

// shown is a time counted from the latest time seen, likewise.
func (c *clock) shown(t time.Time) time.Time { return c.last.Add(t.Sub(c.last)) }

// slept counts time in which the monotonic clock stood still.
func (c *clock) slept(d time.Duration) { c.base = c.base.Add(-d) }

// back is at minus n, not below 0.
func back(at, n uint32) uint32 { return at - min(at, n) }

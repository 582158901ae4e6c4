package process

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What garbage may wait for the collector, in bytes. By default it may be as
// much as what is in use; but a large table of grants holds nothing that the
// collector must look into, and would cost twice its size for nothing. And of a small
// heap a storm would have it look through everything many times a second.
const garbage = 32 << 20

// gcPercent is the runtime's setting for that.
func gcPercent(live uint64) int {
	return int(min(max(garbage*100/max(live, 1), 5), 800))
}

// BoundGarbage keeps the collector's setting fit for what is in use.
func BoundGarbage(ctx context.Context) error {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for set := 100; ; {
		metrics.Read(live)
		if want := gcPercent(live[0].Value.Uint64()); want != set {
			debug.SetGCPercent(want)
			set = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

package metrics

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"relaygate/cmd/relaygate/internal/control"
)

// collector takes one snapshot of the status for each scrape. It keeps no
// counter of its own: what status says and what a scrape says is the same.
type collector struct {
	ctx      context.Context // of the daemon: Collect has none
	snapshot Snapshot
}

// Snapshot tells the daemon's status as it is now.
type Snapshot func(context.Context) (control.Status, error)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range list {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, scrapeTimeout)
	defer cancel()
	s, err := c.snapshot(ctx)
	if err != nil {
		err = fmt.Errorf("read the status: %w", err)
		ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	for _, m := range list {
		m.read(&s, func(value float64, label ...string) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, label...)
		})
	}
}

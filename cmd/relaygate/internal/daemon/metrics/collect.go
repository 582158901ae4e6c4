//go:build linux

package metrics

import (
	"context"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// The names of the metrics.
const (
	metricStart        = "relaygate_start_time_seconds"
	metricFlowsOpen    = "relaygate_flows_open"
	metricFlowsOpened  = "relaygate_flows_opened_total"
	metricUntrusted    = "relaygate_connections_untrusted_total"
	metricPackets      = "relaygate_packets_total"
	metricVerdicts     = "relaygate_verdicts_total"
	metricDoubts       = "relaygate_doubts_total"
	metricGrants       = "relaygate_grants"
	metricChanges      = "relaygate_grant_changes_total"
	metricBounds       = "relaygate_bound_hits_total"
	metricTapDrops     = "relaygate_tap_drops_total"
	metricGateUp       = "relaygate_gate_up"
	metricGateAdds     = "relaygate_gate_adds_total"
	metricGateLosses   = "relaygate_gate_losses_total"
	metricGateRebuilds = "relaygate_gate_rebuilds_total"
	metricGateErrors   = "relaygate_gate_errors_total"
	metricDelayLast    = "relaygate_gate_delay_last_seconds"
	metricDelayMax     = "relaygate_gate_delay_max_seconds"
	metricFileWrites   = "relaygate_file_writes_total"
	metricFileErrors   = "relaygate_file_errors_total"
	metricFileChanges  = "relaygate_file_changes_total"
	metricSessions     = "relaygate_sessions"
	metricDenials      = "relaygate_denials"
	metricPaused       = "relaygate_paused"
	metricBites        = "relaygate_brakes_total"
	metricStateErrors  = "relaygate_state_errors_total"
	metricTLS          = "relaygate_tls_connections_total"
	metricTLSServers   = "relaygate_tls_servers"
	metricTLSUnseen    = "relaygate_tls_servers_unseen"
)

// family is a metric with at most one label.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, label ...string) family {
	return family{prometheus.NewDesc(name, help, label, nil), prometheus.CounterValue}
}

func gauge(name, help string) family {
	return family{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue}
}

// families are all metrics by name. No label's value comes from the wire.
var families = map[string]family{
	metricStart:        gauge(metricStart, "When the daemon started, in Unix time."),
	metricFlowsOpen:    gauge(metricFlowsOpen, "Watched connections that are open now."),
	metricFlowsOpened:  counter(metricFlowsOpened, "Watched connections that were opened."),
	metricUntrusted:    counter(metricUntrusted, "Connections to listeners that are not believed."),
	metricPackets:      counter(metricPackets, "Packets that the tap read."),
	metricVerdicts:     counter(metricVerdicts, "What connections showed, by result.", "result"),
	metricDoubts:       counter(metricDoubts, "Connections in doubt, by reason.", "reason"),
	metricGrants:       gauge(metricGrants, "Grants that stand now."),
	metricChanges:      counter(metricChanges, "What happened to grants, by kind.", "kind"),
	metricBounds:       counter(metricBounds, "What was left out for a bound, by the bound's name.", "bound"),
	metricTapDrops:     counter(metricTapDrops, "What the tap could not see, by cause.", "cause"),
	metricGateUp:       gauge(metricGateUp, "1 while the gate stands in the kernel, 0 while it is missing."),
	metricGateAdds:     counter(metricGateAdds, "Elements written to the gate one by one."),
	metricGateLosses:   counter(metricGateLosses, "Times that the gate was found missing or changed."),
	metricGateRebuilds: counter(metricGateRebuilds, "Times that the gate was built anew."),
	metricGateErrors:   counter(metricGateErrors, "Failures to write or check the gate."),
	metricDelayLast:    gauge(metricDelayLast, "Time from the server's answer to the open gate, of the last grant."),
	metricDelayMax:     gauge(metricDelayMax, "Time from the server's answer to the open gate, the longest since the start."),
	metricFileWrites:   counter(metricFileWrites, "Times that a file was brought up to date, by its path.", "path"),
	metricFileErrors:   counter(metricFileErrors, "Times that a file could not be written, by its path.", "path"),
	metricFileChanges:  counter(metricFileChanges, "Times that somebody else had changed a file, by its path.", "path"),
	metricSessions:     gauge(metricSessions, "Open sessions that hold a grant."),
	metricDenials:      gauge(metricDenials, "Denials in force."),
	metricPaused:       gauge(metricPaused, "1 while relaygate is paused."),
	metricBites:        counter(metricBites, "What the brakes stopped: connections of granted addresses, or logins that granted nothing, by the brake.", "brake"),
	metricStateErrors:  counter(metricStateErrors, "Failures to write the state file."),
	metricTLS:          counter(metricTLS, "Connections in TLS: handshakes seen, and of those the ones whose plaintext was seen or not.", "stage"),
	metricTLSServers:   gauge(metricTLSServers, "Mail servers that are known to speak TLS."),
	metricTLSUnseen:    gauge(metricTLSUnseen, "Mail servers whose TLS is not read."),
}

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
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, scrapeTimeout)
	defer cancel()
	s, err := c.snapshot(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(families[metricGateUp].desc, fmt.Errorf("read the status: %w", err))
		return
	}
	measure(&s, func(name string, value float64, label ...string) {
		f := families[name]
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, label...)
	})
}

// tapDrop begins the names of the drops that the tap counts.
const tapDrop = "tap: "

// measure reads the metrics off a status.
func measure(s *control.Status, put func(name string, value float64, label ...string)) {
	each := func(name string, counts map[string]uint64) {
		for label, n := range counts {
			put(name, float64(n), label)
		}
	}
	put(metricStart, float64(s.Since.UnixNano())/1e9)
	put(metricFlowsOpen, float64(s.Tap.Flows))
	put(metricFlowsOpened, float64(s.Tap.Opened))
	put(metricUntrusted, float64(s.Tap.Untrusted))
	put(metricPackets, float64(s.Tap.Packets))
	each(metricVerdicts, map[string]uint64{
		authz.Success.String(): s.Logins, authz.Failure.String(): s.Refused,
		authz.Tainted.String(): s.Tainted, authz.Encrypted.String(): s.Encrypted,
	})
	each(metricDoubts, s.Doubts)
	put(metricGrants, float64(s.Grants))
	each(metricChanges, s.Changes)
	for drop, n := range s.Drops {
		if cause, ok := strings.CutPrefix(drop, tapDrop); ok {
			put(metricTapDrops, float64(n), cause)
		} else {
			put(metricBounds, float64(n), drop)
		}
	}
	up := 0.0
	if s.Gate.Up {
		up = 1
	}
	put(metricGateUp, up)
	put(metricGateAdds, float64(s.Gate.Adds))
	put(metricGateLosses, float64(s.Gate.Losses))
	put(metricGateRebuilds, float64(s.Gate.Rebuilds))
	put(metricGateErrors, float64(s.Gate.Errors))
	put(metricDelayLast, s.Gate.LastDelay.Seconds())
	put(metricDelayMax, s.Gate.MaxDelay.Seconds())
	put(metricSessions, float64(s.Sessions))
	put(metricDenials, float64(s.Denials))
	paused := 0.0
	if s.Paused != nil {
		paused = 1
	}
	put(metricPaused, paused)
	each(metricBites, map[string]uint64{
		"new per minute": s.Gate.TooFast, "concurrent": s.Gate.TooMany,
		"users per address": s.Shared, "addresses per user": s.Spread,
	})
	put(metricStateErrors, float64(s.State.Errors))
	each(metricTLS, map[string]uint64{"handshake": s.TLS.Handshakes, "seen": s.TLS.Seen, "unseen": s.TLS.Unseen})
	speak, unseen := 0, 0
	for _, server := range s.TLS.Servers {
		if server.TLS {
			speak++
		}
		if server.TLS && !server.Seen {
			unseen++
		}
	}
	put(metricTLSServers, float64(speak))
	put(metricTLSUnseen, float64(unseen))
	for _, f := range s.Files {
		put(metricFileWrites, float64(f.Writes), f.Path)
		put(metricFileErrors, float64(f.Errors), f.Path)
		put(metricFileChanges, float64(f.Changed), f.Path)
	}
}

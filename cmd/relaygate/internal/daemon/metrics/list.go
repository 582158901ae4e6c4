package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

type status = control.Status

// metric is one metric, by the values of its label if it has one.
type metric struct {
	name string
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s *status, put func(value float64, label ...string))
}

// list are all metrics. No label's value comes from the wire.
var list = []metric{
	gauge("relaygate_start_time_seconds", "When the daemon started, in Unix time.",
		func(s *status) float64 { return float64(s.Since.UnixNano()) / 1e9 }),
	gauge("relaygate_problems", "What a person should look at: status says it in words.",
		func(s *status) int { return len(s.Problems) }),

	gauge("relaygate_flows_open", "Watched connections that are open now.",
		func(s *status) uint64 { return s.Tap.Flows }),
	counter("relaygate_flows_opened_total", "Watched connections that were opened.",
		func(s *status) uint64 { return s.Tap.Opened }),
	counter("relaygate_connections_untrusted_total", "Connections to listeners that are not believed.",
		func(s *status) uint64 { return s.Tap.Untrusted }),
	counter("relaygate_packets_total", "Packets that the tap read.",
		func(s *status) uint64 { return s.Tap.Packets }),
	counters("relaygate_tap_drops_total", "What the tap could not see, by cause.", "cause",
		func(s *status) map[string]uint64 { return drops(s, true) }),
	counters("relaygate_bound_hits_total", "What was left out for a bound, by the bound's name.", "bound",
		func(s *status) map[string]uint64 { return drops(s, false) }),

	counters("relaygate_verdicts_total", "What connections showed, by result.", "result",
		func(s *status) map[string]uint64 {
			return map[string]uint64{
				authz.Success.String(): s.Logins, authz.Failure.String(): s.Refused,
				authz.Tainted.String(): s.Tainted, authz.Encrypted.String(): s.Encrypted,
			}
		}),
	counters("relaygate_doubts_total", "Connections in doubt, by reason.", "reason",
		func(s *status) map[string]uint64 { return s.Doubts }),
	counters("relaygate_tls_connections_total", "Connections in TLS: handshakes seen, and of those the ones whose plaintext was seen or not.", "stage",
		func(s *status) map[string]uint64 {
			return map[string]uint64{"handshake": s.TLS.Handshakes, "seen": s.TLS.Seen, "unseen": s.TLS.Unseen}
		}),
	gauge("relaygate_tls_servers", "Mail servers that are known to speak TLS.",
		func(s *status) int { return servers(s, func(t *control.TLSServer) bool { return t.TLS }) }),
	gauge("relaygate_tls_servers_unseen", "Mail servers whose TLS is not read.",
		func(s *status) int { return servers(s, func(t *control.TLSServer) bool { return t.TLS && !t.Seen }) }),

	gauge("relaygate_grants", "Grants that stand now.",
		func(s *status) int { return s.Grants }),
	gauge("relaygate_sessions", "Open sessions that hold a grant.",
		func(s *status) int { return s.Sessions }),
	gauge("relaygate_denials", "Denials in force.",
		func(s *status) int { return s.Denials }),
	gauge("relaygate_paused", "1 while relaygate is paused.",
		func(s *status) int { return oneIf(s.Paused != nil) }),
	counters("relaygate_grant_changes_total", "What happened to grants, by kind.", "kind",
		func(s *status) map[string]uint64 { return s.Changes }),
	counters("relaygate_brakes_total", "What the brakes stopped: connections of granted addresses, or logins that granted nothing, by the brake.", "brake",
		func(s *status) map[string]uint64 {
			return map[string]uint64{
				"new per minute": s.Gate.TooFast, "concurrent": s.Gate.TooMany,
				"users per address": s.Shared, "addresses per user": s.Spread,
			}
		}),

	gauge("relaygate_gate_up", "1 while the gate stands in the kernel, 0 while it is missing.",
		func(s *status) int { return oneIf(s.Gate.Up) }),
	counter("relaygate_gate_adds_total", "Elements written to the gate one by one.",
		func(s *status) uint64 { return s.Gate.Adds }),
	counter("relaygate_gate_losses_total", "Times that the gate was found missing or changed.",
		func(s *status) uint64 { return s.Gate.Losses }),
	counter("relaygate_gate_rebuilds_total", "Times that the gate was built anew.",
		func(s *status) uint64 { return s.Gate.Rebuilds }),
	counter("relaygate_gate_errors_total", "Failures to write or check the gate.",
		func(s *status) uint64 { return s.Gate.Errors }),
	gauge("relaygate_gate_delay_last_seconds", "Time from the server's answer to the open gate, of the last grant.",
		func(s *status) float64 { return s.Gate.LastDelay.Seconds() }),
	gauge("relaygate_gate_delay_max_seconds", "Time from the server's answer to the open gate, the longest since the start.",
		func(s *status) float64 { return s.Gate.MaxDelay.Seconds() }),

	counters("relaygate_file_writes_total", "Times that a file was brought up to date, by its path.", "path",
		func(s *status) map[string]uint64 { return files(s, func(f *control.File) uint64 { return f.Writes }) }),
	counters("relaygate_file_errors_total", "Times that a file could not be written, by its path.", "path",
		func(s *status) map[string]uint64 { return files(s, func(f *control.File) uint64 { return f.Errors }) }),
	counters("relaygate_file_changes_total", "Times that somebody else had changed a file, by its path.", "path",
		func(s *status) map[string]uint64 { return files(s, func(f *control.File) uint64 { return f.Changed }) }),
	counter("relaygate_state_errors_total", "Failures to write the state file.",
		func(s *status) uint64 { return s.State.Errors }),
}

type number interface{ int | uint64 | float64 }

func gauge[N number](name, help string, read func(*status) N) metric {
	return metric{name, prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, single(read)}
}

func counter(name, help string, read func(*status) uint64) metric {
	return metric{name, prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, single(read)}
}

func single[N number](read func(*status) N) func(*status, func(float64, ...string)) {
	return func(s *status, put func(float64, ...string)) { put(float64(read(s))) }
}

// counters are one counter for each value of a label.
func counters(name, help, label string, read func(*status) map[string]uint64) metric {
	each := func(s *status, put func(float64, ...string)) {
		for value, n := range read(s) {
			put(float64(n), value)
		}
	}
	return metric{name, prometheus.NewDesc(name, help, []string{label}, nil), prometheus.CounterValue, each}
}

// drops are those that the tap counts, or those for a bound of relaygate's.
func drops(s *status, tap bool) map[string]uint64 {
	some := make(map[string]uint64)
	for drop, n := range s.Drops {
		if name, ofTap := strings.CutPrefix(drop, "tap: "); ofTap == tap {
			some[name] = n
		}
	}
	return some
}

func servers(s *status, are func(*control.TLSServer) bool) (n int) {
	for i := range s.TLS.Servers {
		n += oneIf(are(&s.TLS.Servers[i]))
	}
	return n
}

func files(s *status, count func(*control.File) uint64) map[string]uint64 {
	counts := make(map[string]uint64, len(s.Files))
	for i := range s.Files {
		counts[s.Files[i].Path] = count(&s.Files[i])
	}
	return counts
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

package metrics

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/control"
)

var must = bpftest.Must

var measured = control.Status{
	Since: control.Time{Time: time.Unix(1_000_000_000, 5e8)}, Problems: []string{"never a label", "never a label"},
	Tap:    control.Tap{Flows: 2, Opened: 17, Untrusted: 1, Packets: 900},
	Logins: 5, Refused: 3, Tainted: 4, Encrypted: 6, Grants: 2,
	Sessions: 3, Denials: 4, Shared: 15, Spread: 16, Paused: &control.Pause{By: "never a label"}, State: control.State{Errors: 1, Error: "never a label"},
	Doubts:  map[string]uint64{"client line is too long": 4, "literal is too long": 0},
	Changes: map[string]uint64{"granted": 5, "refused": 0},
	Gate: control.Gate{
		Up: true, Adds: 7, Errors: 1, Losses: 2, Rebuilds: 3,
		LastError: "never a label", LastLoss: "never a label",
		TooFast: 11, TooMany: 13,
		LastDelay: control.Duration{Duration: 250 * time.Microsecond}, MaxDelay: control.Duration{Duration: 2 * time.Millisecond},
	},
	Files: []control.File{{Path: "/etc/relayhosts", Writes: 8, Errors: 1, Changed: 9, Error: "never a label"}},
	TLS: control.TLS{
		Handshakes: 12, Seen: 10, Unseen: 2,
		Servers: []control.TLSServer{{Name: "never a label", TLS: true, Seen: true}, {TLS: true}, {}},
	},
	Drops: map[string]uint64{"tap: packets cut": 9, "flows: connections beyond the table": 0},
}

// gatherer is a registry that checks what it is given.
func gatherer(t *testing.T, s control.Status, err error) prometheus.Gatherer {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	snapshot := func(context.Context) (control.Status, error) { return s, err }
	must(t, r.Register(&collector{ctx: t.Context(), snapshot: snapshot}))
	return r
}

func scrape(t *testing.T, g prometheus.Gatherer, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	newServer(g, slog.New(slog.DiscardHandler)).Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return w.Code, w.Body.String()
}

func TestScrapeSaysWhatStatusSays(t *testing.T) {
	code, got := scrape(t, gatherer(t, measured, nil), "GET", "/metrics")
	if code != http.StatusOK {
		t.Fatalf("code %d: %s", code, got)
	}
	for _, want := range []string{
		"relaygate_start_time_seconds 1.0000000005e+09", "relaygate_problems 2",
		"relaygate_flows_open 2", "relaygate_flows_opened_total 17", "relaygate_connections_untrusted_total 1", "relaygate_packets_total 900",
		`relaygate_verdicts_total{result="success"} 5`, `relaygate_verdicts_total{result="failure"} 3`,
		`relaygate_verdicts_total{result="tainted"} 4`, `relaygate_verdicts_total{result="encrypted"} 6`,
		`relaygate_doubts_total{reason="client line is too long"} 4`, `relaygate_doubts_total{reason="literal is too long"} 0`,
		"relaygate_grants 2", `relaygate_grant_changes_total{kind="granted"} 5`, `relaygate_grant_changes_total{kind="refused"} 0`,
		`relaygate_bound_hits_total{bound="flows: connections beyond the table"} 0`, `relaygate_tap_drops_total{cause="packets cut"} 9`,
		"relaygate_gate_up 1", "relaygate_gate_adds_total 7", "relaygate_gate_losses_total 2", "relaygate_gate_rebuilds_total 3", "relaygate_gate_errors_total 1",
		"relaygate_gate_delay_last_seconds 0.00025", "relaygate_gate_delay_max_seconds 0.002",
		"relaygate_sessions 3", "relaygate_denials 4", "relaygate_paused 1", "relaygate_state_errors_total 1",
		`relaygate_brakes_total{brake="new per minute"} 11`, `relaygate_brakes_total{brake="concurrent"} 13`,
		`relaygate_brakes_total{brake="users per address"} 15`, `relaygate_brakes_total{brake="addresses per user"} 16`,
		`relaygate_tls_connections_total{stage="handshake"} 12`, `relaygate_tls_connections_total{stage="seen"} 10`, `relaygate_tls_connections_total{stage="unseen"} 2`,
		"relaygate_tls_servers 2", "relaygate_tls_servers_unseen 1",
		`relaygate_file_writes_total{path="/etc/relayhosts"} 8`, `relaygate_file_errors_total{path="/etc/relayhosts"} 1`, `relaygate_file_changes_total{path="/etc/relayhosts"} 9`,
	} {
		if !strings.Contains("\n"+got, "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
	for _, m := range list {
		if !strings.Contains(got, "# HELP "+m.name+" ") || !strings.HasPrefix(m.name, "relaygate_") {
			t.Errorf("%s has no help or no prefix", m.name)
		}
	}
	if strings.Contains(got, "never a label") {
		t.Error("free text became a label")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestManualHasMetrics(t *testing.T) {
	manual, err := os.ReadFile("../../../packaging/relaygate.8")
	must(t, err)
	for _, m := range list {
		if !regexp.MustCompile(`(?m)^\.It Li ` + m.name + `(\{\w+\})?$`).Match(manual) {
			t.Errorf("%s is not in the manual", m.name)
		}
	}
}

func TestScrapeFailsWithoutAStatus(t *testing.T) {
	if code, got := scrape(t, gatherer(t, control.Status{}, errors.New("it ends")), "GET", "/metrics"); code != http.StatusInternalServerError {
		t.Errorf("code %d: %s", code, got)
	}
}

func TestOnlyMetricsAreServed(t *testing.T) {
	g := gatherer(t, measured, nil)
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/metrics", http.StatusMethodNotAllowed},
		{"GET", "/", http.StatusNotFound},
		{"GET", "/debug/pprof/", http.StatusNotFound},
		{"GET", "/v1/status", http.StatusNotFound},
	} {
		if code, _ := scrape(t, g, tt.method, tt.path); code != tt.want {
			t.Errorf("%s %s: code %d, want %d", tt.method, tt.path, code, tt.want)
		}
	}
}

func TestMetricsServerIsBoundedAndEnds(t *testing.T) {
	e := Listen("127.0.0.1:0", slog.New(slog.DiscardHandler))
	l := e.listener
	if l == nil {
		t.Fatal(e.Problem())
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	snapshot := func(context.Context) (control.Status, error) { return measured, nil }
	go func() { ended <- e.Run(ctx, snapshot) }()

	ask := func(header string) (net.Conn, string) {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		// A server that closes at once may make the write fail: the read tells.
		_, _ = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return c, line
	}
	c, line := ask("X: " + strings.Repeat("x", 2*maxScrapeHeader) + "\r\n")
	if !strings.Contains(line, "431") {
		t.Errorf("a long header was answered with %q", line)
	}
	_ = c.Close()
	var open []net.Conn
	for range maxScrapeClients - 1 { // the first one may still be counted
		c, line := ask("")
		if !strings.Contains(line, "200") {
			t.Errorf("a scrape was answered with %q", line)
		}
		open = append(open, c)
	}
	refused := false
	for range 3 {
		c, line := ask("")
		refused = refused || line == ""
		open = append(open, c)
	}
	if !refused {
		t.Error("connections are not bounded")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the end: %v", err)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

func TestNoMetricsWithoutAnAddress(t *testing.T) {
	e := Listen("", slog.New(slog.DiscardHandler))
	if e.listener != nil || e.Problem() != "" {
		t.Errorf("%v, %q", e.listener, e.Problem())
	}
}

// A port at which nobody can be let in, without memory say, ends nothing.
func TestPortThatFails(t *testing.T) {
	e := Listen("127.0.0.1:0", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- e.Run(ctx, func(context.Context) (control.Status, error) { return control.Status{}, nil })
	}()
	if err := e.listener.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(e.Problem(), "tried again"); {
		select {
		case err := <-ended:
			t.Fatalf("it ended, and the daemon with it: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("it does not say that it failed")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

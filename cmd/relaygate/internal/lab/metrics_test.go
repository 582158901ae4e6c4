package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// What a login and a line beyond its bound change is in the metrics and in
// status.
func TestMetricsFollowTheDaemon(t *testing.T) {
	at := netip.AddrPortFrom(lab.Server4, 9125)
	w := newWorld(t, 30*time.Second, fmt.Sprintf("[metrics]\nlisten = %q\n", at))
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	conn, err := w.Client4.Dial(t.Context(), netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n')
	must(t, err)
	_, err = io.WriteString(conn, "a1 LOGIN {5000}\r\n")
	must(t, err)

	settles(t, 5*time.Second, func() error {
		got := w.scrape(t, at)
		for _, want := range []string{
			`relaygate_verdicts_total{result="success"} 1`, `relaygate_verdicts_total{result="tainted"} 1`,
			`relaygate_doubts_total{reason="literal is too long"} 1`,
			`relaygate_grant_changes_total{kind="granted"} 1`, `relaygate_grants 1`,
			`relaygate_gate_up 1`, `relaygate_gate_adds_total 1`, `relaygate_flows_opened_total 2`,
			`relaygate_tap_drops_total{cause="packets cut"} 0`,
			`relaygate_bound_hits_total{bound="flows: connections beyond one client's share"} 0`,
		} {
			if !strings.Contains(got, "\n"+want+"\n") {
				return fmt.Errorf("no line %q in\n%s", want, got)
			}
		}
		return nil
	})
	must(t, w.says(t, "status", "Doubt:   1 connection: 1 literal is too long.")())
	if out := w.verb(t, "status", "--json"); !strings.Contains(out, `"doubts":{"literal is too long":1}`) {
		t.Errorf("status --json does not name the bound:\n%s", out)
	}
}

func (w *world) scrape(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	conn, err := w.Client4.Dial(t.Context(), at)
	must(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: %v\r\nConnection: close\r\n\r\n", at)
	must(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	must(t, err)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", answer.Status, body)
	}
	return string(body)
}

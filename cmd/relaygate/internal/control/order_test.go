package control

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func TestOrdersArriveAsGiven(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may order")
	}
	d := &fakeDaemon{}
	c := serve(t, d, NewHub())
	want := Order{
		Verb: VerbGrant, Prefix: netip.MustParsePrefix("192.0.2.0/24"), For: Duration{2 * time.Hour},
		KeepConnections: true, Note: "the new scanner",
	}
	out, err := c.Order(t.Context(), want)
	if err != nil || out.Result != "done" {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := c.Order(t.Context(), Order{Verb: VerbPause}); err != nil {
		t.Fatal(err)
	}
	if len(d.orders) != 2 || d.orders[0] != want || d.orders[1].Verb != VerbPause {
		t.Errorf("the daemon got %+v", d.orders)
	}
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	if by := string(d.by); !strings.Contains(by, "root (uid 0)") || !strings.Contains(by, strings.TrimSpace(string(name))) {
		t.Errorf("ordered by %q, want root and this program", by)
	}
	d.err = &Refusal{"it is one of this host's own addresses"}
	var refusal *Refusal
	if _, err := c.Order(t.Context(), want); !errors.As(err, &refusal) || refusal.Reason != "it is one of this host's own addresses" {
		t.Errorf("error %v, want the refusal", err)
	}
}

func TestWhoMayOrderWhat(t *testing.T) {
	root := context.WithValue(context.Background(), peerKey{}, peer{})
	other := context.WithValue(context.Background(), peerKey{}, peer{uid: 4242})
	const good = `{"prefix":"192.0.2.7/32"}`
	for _, tt := range []struct {
		name, verb, body string
		ctx              context.Context
		want             int
	}{
		{"root", "grant", good, root, http.StatusOK},
		{"another user", "grant", good, other, http.StatusForbidden},
		{"no peer", "grant", good, context.Background(), http.StatusForbidden},
		{"unknown verb", "open", good, root, http.StatusNotFound},
		{"status is no order", "status", "{}", root, http.StatusMethodNotAllowed},
		{"no body", "grant", "", root, http.StatusBadRequest},
		{"no prefix", "grant", `{"note":"x"}`, root, http.StatusBadRequest},
		{"bad prefix", "grant", `{"prefix":"192.0.2"}`, root, http.StatusBadRequest},
		{"wider than IPv4", "revoke", `{"prefix":"::ffff:0:0/90"}`, root, http.StatusBadRequest},
		{"negative time", "grant", `{"prefix":"192.0.2.7/32","for":-1}`, root, http.StatusBadRequest},
		{"huge time", "grant", `{"prefix":"192.0.2.7/32","for":1e300}`, root, http.StatusBadRequest},
		{"no number", "grant", `{"prefix":"192.0.2.7/32","for":"NaN"}`, root, http.StatusBadRequest},
		{"time of a revocation", "revoke", `{"prefix":"192.0.2.7/32","for":60}`, root, http.StatusBadRequest},
		{"pause of one", "pause", good, root, http.StatusBadRequest},
		{"unknown field", "grant", `{"prefix":"192.0.2.7/32","uid":0}`, root, http.StatusBadRequest},
		{"long note", "pause", `{"note":"` + strings.Repeat("n", maxNote+1) + `"}`, root, http.StatusBadRequest},
		{"note that acts", "pause", `{"note":"\u001b[2J"}`, root, http.StatusBadRequest},
		{"note", "pause", `{"note":"moving house"}`, root, http.StatusOK},
		{"resume", "resume", `{}`, root, http.StatusOK},
		{"reload of one", "reload", good, root, http.StatusBadRequest},
		{"reload", "reload", `{}`, root, http.StatusOK},
	} {
		d := &fakeDaemon{}
		w := httptest.NewRecorder()
		handler(d, NewHub()).ServeHTTP(w, httptest.NewRequestWithContext(tt.ctx, "POST", "/v1/"+tt.verb, strings.NewReader(tt.body)))
		if w.Code != tt.want || (w.Code == http.StatusOK) != (len(d.orders) == 1) {
			t.Errorf("%s: code %d, want %d; %d orders", tt.name, w.Code, tt.want, len(d.orders))
		}
	}
}

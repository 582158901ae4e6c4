package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"relaygate/cmd/relaygate/internal/bench/traffic"
)

// TestReplayOfGeneratedTraffic: every login is found and none invented, also
// where segments are lost, late, or out of order.
func TestReplayOfGeneratedTraffic(t *testing.T) {
	bad := traffic.Logins(400)
	bad.Name, bad.Loss, bad.Reorder = "bad line", 0.08, 0.08
	worse := traffic.Mixed(150)
	worse.Name, worse.Loss, worse.Reorder = "worse line", 0.3, 0.2
	for _, p := range []traffic.Profile{traffic.Logins(1000), traffic.Downloads(20), traffic.Mixed(200), bad, worse} {
		t.Run(p.Name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.pcap")
			f, err := os.Create(file)
			must(t, err)
			truth, err := traffic.Generate(f, p)
			must(t, err)
			must(t, f.Close())
			logins := map[netip.Addr]int{}
			results := map[string]int{}
			for _, r := range replay(t, file) {
				results[r.Result]++
				if r.Result == "success" {
					logins[r.Client]++
				}
				if r.Result == "tainted" {
					t.Errorf("tainted: %+v", r)
				}
			}
			if results["success"] != truth.Succeeded || results["failure"] != truth.Failed || results["encrypted"] != truth.Encrypted {
				t.Errorf("got %v, want %d, %d failed, %d encrypted", results, truth.Succeeded, truth.Failed, truth.Encrypted)
			}
			for client, n := range truth.Logins {
				if logins[client] != n {
					t.Errorf("%v: %d logins, want %d", client, logins[client], n)
				}
			}
		})
	}
}

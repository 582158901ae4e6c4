//go:build e2e

package overtls

import (
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/e2e/layer"
	"relaygate/cmd/relaygate/internal/lab"
)

// mostDelay bounds the median time from an answer in TLS to the open gate. The
// reader of the tap looks by itself once a second: one that nobody wakes is late.
const mostDelay = 20 * time.Millisecond

// TestDelay logs in once in a while, and prints how long after the answer the gate
// was open.
func TestDelay(t *testing.T) {
	for _, one := range []struct {
		name  string
		start func(*world, *testing.T) *layer.Server
		at    place
	}{
		{"Dovecot, OpenSSL", (*world).startBusyDovecot, atBusy},
		{"Courier, GnuTLS", (*world).startCourier, atCourier},
	} {
		t.Run(one.name, func(t *testing.T) {
			w := newWorld(t)
			one.start(w, t)
			a := w.startAgent(t)
			w.attached(t, a)
			client := control.NewClient(a.Socket)
			var delays []time.Duration
			before, err := client.Status(t.Context())
			must(t, err)
			for i := range uint64(100) {
				v := w.open(t, service{one.name, one.at, 993, imap, true})
				v.login(t)
				v.Close()
				must(t, lab.Poll(t.Context(), 5*time.Second, 10*time.Millisecond, func() error {
					s, err := client.Status(t.Context())
					if err != nil || s.Gate.Adds <= before.Gate.Adds+i {
						return cmp.Or(err, errors.New("the gate is not open"))
					}
					delays = append(delays, s.Gate.LastDelay.Duration)
					return nil
				}))
			}
			slices.Sort(delays)
			n := len(delays)
			t.Logf("from the answer to the open gate: median %v, one in ten above %v, longest %v", delays[n/2], delays[n*9/10], delays[n-1])
			if delays[n/2] > mostDelay {
				t.Errorf("the median is above %v", mostDelay)
			}
		})
	}
}

package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables/expr"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

// Clients whose source the router translates have one address at the server.
// Their logins open port 25 for none of them.
func TestGatewayThatTranslatesSources(t *testing.T) {
	pool := netip.MustParseAddr("10.77.0.1") // the server's answers come back by its default route
	for _, tt := range []struct {
		name      string
		translate []expr.Any
	}{
		{"to its own address", []expr.Any{&expr.Masq{}}},
		{"to another", anotherSource(pool)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tcxLan)
			bpftest.Do(t, w.gateway.Router, func() error {
				return translate(append([]expr.Any{
					&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(lab.Lan + "\x00")},
				}, tt.translate...)...)
			})
			login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
			settles(t, time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
			must(t, w.Client4.At(lab.Server4).Refused(t.Context()))
			must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
			for _, never := range []netip.Addr{lab.Client4, netip.MustParseAddr("198.51.100.1")} {
				if _, ok := w.expires(t)[never.String()]; ok {
					t.Errorf("%v is granted", never)
				}
			}
			if s := w.totals(t); s.Logins != 2 {
				t.Errorf("status tells %+v, want two logins: else the test proves nothing", s)
			}
		})
	}
}

//go:build linux

package livetap

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/capture/sockdiag"
)

// TestForwardedIsNotOwn: where the tap cannot tell whose packets leave, a login
// over IPv6 is believed only while this host forwards none.
func TestForwardedIsNotOwn(t *testing.T) {
	bpftest.RequireRoot(t)
	ns := bpftest.Namespace(t)
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{143}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bpftest.Close(t, tables) })
	v4 := authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:50000"), Server: netip.MustParseAddrPort("192.0.2.1:143")}
	v6 := authz.Conn{Client: netip.MustParseAddrPort("[2001:db8::7]:50000"), Server: netip.MustParseAddrPort("[2001:db8::1]:143")}
	for _, tt := range []struct {
		forwarding string
		unsure     bool
		conn       authz.Conn
		refused    bool
	}{
		{"1", true, v6, true},
		{"1", true, v4, false},
		{"1", false, v6, false},
		{"0", true, v6, false},
	} {
		bpftest.Do(t, ns, func() error {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte(tt.forwarding), 0); err != nil {
				return err
			}
			trust := &Trust{tables: tables, unsure: tt.unsure}
			// Without a namespace in the tables each is refused at last.
			ok, reason := trust.Confirm(tt.conn)
			if got := strings.Contains(reason, "forwards IPv6"); ok || got != tt.refused {
				t.Errorf("%+v: %v because %q", tt, ok, reason)
			}
			if got := len(trust.problems()) == 1; got != (tt.unsure && tt.forwarding == "1") {
				t.Errorf("%+v: problems are %q", tt, trust.problems())
			}
			return nil
		})
	}
}

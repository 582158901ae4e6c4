//go:build linux

package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
)

// What an order is answered with holds: not that something is closed which an always
// rule leaves open, nor that it may open which another rule closes.
func TestAnswersToOrdersHold(t *testing.T) {
	for _, tt := range []struct {
		name, prefix string
		verb         string
		before       func(*grant.Table)
		want         string
	}{
		{name: "revoke a grant", prefix: "192.0.2.7/32", verb: control.VerbRevoke, want: "192.0.2.7 is closed; its grant ended"},
		{name: "revoke nothing", prefix: "192.0.2.8/32", verb: control.VerbRevoke, want: "192.0.2.8 held no grant: nothing was open"},
		{
			name: "revoke what may always relay", prefix: "198.51.100.7/32", verb: control.VerbRevoke,
			want: "198.51.100.7 holds no grant now, but 198.51.100.0/24 may always relay, says the configuration: deny closes it",
		},
		{
			name: "revoke around what may always relay", prefix: "0.0.0.0/0", verb: control.VerbRevoke,
			want: "0.0.0.0/0 holds no grant now; its grant ended, but 198.51.100.0/24 may always relay, says the configuration: deny closes it",
		},
		{name: "deny what may always relay", prefix: "198.51.100.0/24", verb: control.VerbDeny, want: "198.51.100.0/24 is closed and denied for good"},
		{
			name: "undeny", prefix: "192.0.2.7/32", verb: control.VerbUndeny, before: deny("192.0.2.7/32"),
			want: "192.0.2.7 is denied no more: the next login may open it",
		},
		{
			name: "undeny within a wider denial", prefix: "192.0.2.7/32", verb: control.VerbUndeny, before: deny("192.0.2.7/32", "192.0.2.0/24"),
			want: "192.0.2.7 has no denial of its own any more, but it is denied (192.0.2.0/24) by root",
		},
		{
			name: "undeny what is never granted", prefix: "203.0.113.9/32", verb: control.VerbUndeny, before: deny("203.0.113.9/32"),
			want: "203.0.113.9 has no denial of its own any more, but it is never granted, says the configuration",
		},
		{
			name: "undeny what may always relay", prefix: "198.51.100.7/32", verb: control.VerbUndeny, before: deny("198.51.100.7/32"),
			want: "198.51.100.7 is denied no more, and 198.51.100.0/24 may always relay, says the configuration",
		},
	} {
		policy, err := authz.NewPolicy(authz.Host{}, authz.Rules{
			Never: []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}, Always: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		})
		if err != nil {
			t.Fatal(err)
		}
		table := grant.New(grant.Config{})
		table.SetPolicy(now, policy)
		table.Manual(now, netip.MustParsePrefix("192.0.2.7/32"), testLifetime, "root", "")
		if tt.before != nil {
			tt.before(table)
		}
		o := control.Order{Verb: tt.verb, Prefix: netip.MustParsePrefix(tt.prefix)}
		n := table.Len()
		changes := obey(table, now, "root", &o, testLifetime)
		if got := result(&o, changes, aftermathOf(table, o.Prefix, n), now); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func deny(prefixes ...string) func(*grant.Table) {
	return func(table *grant.Table) {
		for _, p := range prefixes {
			table.Deny(now, netip.MustParsePrefix(p), 0, "root", "")
		}
	}
}

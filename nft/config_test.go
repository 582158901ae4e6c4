package nft

import (
	"net/netip"
	"strings"
	"testing"

	"relaygate/bpf/bpftest"
)

func TestConfig(t *testing.T) {
	prefix := bpftest.Prefixes
	port := []uint16{25}
	tests := []struct {
		name string
		cfg  Config
		want string // in the error; "" for none
	}{
		{"nothing", Config{}, ""},
		{"filter", Config{Mode: Filter, Ports: port}, ""},
		{"redirect", Config{Mode: Redirect, Ports: port, RelayPort: 925}, ""},
		{"mark", Config{Mode: Mark, Ports: port, Mark: 1 << 31}, ""},
		{"gateway", Config{Mode: Gateway, Ports: port, Servers: prefix("192.0.2.1/32")}, ""},
		{"brakes", Config{Mode: Filter, Ports: port, Brakes: Brakes{1 << 20, 1 << 20}}, ""},

		{"no such mode", Config{Mode: Gateway + 1, Ports: port}, "unknown gate mode 6"},
		{"filter without a port", Config{Mode: Filter}, "gate mode filter needs a port"},
		{"mark without a port", Config{Mode: Mark, Mark: 1}, "gate mode mark needs a port"},
		{"port 0", Config{Mode: Filter, Ports: []uint16{25, 0}}, "port 0"},
		{"an odd prefix length", Config{IPv6Prefix: 56}, "want 64 or 128"},
		{"a static member that is none", Config{Static: []netip.Prefix{{}}}, "static member: invalid prefix"},
		{"a static member beyond IPv4", Config{Static: prefix("::ffff:0.0.0.0/95")}, "static member: prefix ::ffff:0.0.0.0/95 is wider"},
		{"no relay port", Config{Mode: Redirect, Ports: port}, "relay port 0"},
		{"a relay port for everybody", Config{Mode: Redirect, Ports: port, RelayPort: 1024}, "no local user can listen"},
		{"a relay port that is guarded", Config{Mode: Redirect, Ports: port, RelayPort: 25}, "relay port 25 is guarded itself"},
		{"no mark", Config{Mode: Mark, Ports: port}, "needs a mark"},
		{"no servers", Config{Mode: Gateway, Ports: port}, "needs the addresses of mail servers"},
		{"servers that are none", Config{Mode: Gateway, Ports: port, Servers: []netip.Prefix{{}}}, "mail server: invalid prefix"},
		{"a brake below 0", Config{Mode: Filter, Ports: port, Brakes: Brakes{NewPerMinute: -1}}, "brake of -1"},
		{"a brake beyond reason", Config{Mode: Filter, Ports: port, Brakes: Brakes{Concurrent: 1 << 30}}, "brake of 1073741824"},
	}
	for _, tt := range tests {
		_, err := tt.cfg.validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

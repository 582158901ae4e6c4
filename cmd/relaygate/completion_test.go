package main

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/control"
)

// knowing is a daemon that knows some addresses.
type knowing struct{ control.Daemon }

func (knowing) Grants(_ context.Context, visit func(*control.Grant)) error {
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	visit(&control.Grant{Address: &four, Users: []control.Text{"$(reboot)\x1b[2J"}})
	visit(&control.Grant{Address: &six})
	return nil
}

func (knowing) Denials(context.Context) ([]control.Denial, error) {
	return []control.Denial{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Note: "; reboot"}}, nil
}

// Addresses that the daemon knows are offered, and nothing that strangers wrote.
func TestCompletion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := control.Listen(path)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, l, knowing{}, control.NewHub(), slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		must(t, <-ended)
		_ = l.Close()
	}()
	const files, words = ":0\n", ":4\n" // cobra's ShellCompDirective
	for _, tt := range []struct{ line, want string }{
		{"why --socket " + path + " ", "192.0.2.7\n2001:db8::7\n" + words},
		{"why --socket " + path + " 2", "2001:db8::7\n" + words},
		{"revoke --socket=" + path + " 1", "192.0.2.7\n" + words},
		{"why --socket " + path + " 192.0.2.7 ", words},
		{"undeny --socket " + path + " ", "203.0.113.0/24\n" + words},
		{"why --socket /nonexistent/s ", words},
		{"deny --socket " + path + " ", words},
		{"deny 192.0.2.7 --for ", "30m\n2h\n24h\n7d\n" + words},
		{"deny 192.0.2.7 --note ", words},
		{"check ", files},
		{"replay ", files},
		{"run --config ", files},
		{"list ", words},
		{"completion ", "bash\nzsh\nfish\n" + words},
		{"pa", "pause\tClose everybody but the always rules, until resume\n" + words},
	} {
		e, out, _ := testEnv()
		err := run(t.Context(), e, append([]string{"__complete"}, strings.Split(tt.line, " ")...))
		if err != nil || out.String() != tt.want {
			t.Errorf("%s: %v, %q, want %q", tt.line, err, out, tt.want)
		}
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// TestJSONLines: each line is what encoding/json makes of the verdict.
func TestJSONLines(t *testing.T) {
	var list []authz.Verdict
	texts := []string{
		"", "alice", "alice@example.org", "a b", " a", "a ", "=1+1", "@b", "-x", "+x", "o'neill", `q"q`, `b\b`,
		"<script>", "a&b", "tab\t", "nul\x00", "\xff\xfe", "jürgen", "\u202eevil", "e\u0301", "\u0301", "𝔘", "\u2028", "a\x7f", "(masked)",
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	for i, text := range texts {
		for _, result := range []authz.Result{authz.Success, authz.Failure, authz.Tainted, authz.Encrypted} {
			v := authz.Verdict{
				Time: at.Add(time.Duration(i) * 333333333),
				Conn: authz.Conn{
					Client:  netip.MustParseAddrPort("192.0.2.7:51234"),
					Server:  netip.MustParseAddrPort("[2001:db8::1]:110"),
					Service: authz.Service{Protocol: authz.Protocol(1 + i%2)},
				},
				Login:  authz.Login{Result: result, Mechanism: text, User: text, AuthzID: text, Reason: text, Anonymous: i%3 == 0},
				TLS:    i%2 == 0,
				Origin: authz.Origin(i % 3),
			}
			list = append(list, v)
			v.Proxy = netip.MustParseAddr("2001:db8::2")
			list = append(list, v)
		}
	}
	list = append(list, authz.Verdict{}, authz.Verdict{Time: time.Unix(-5, 999).UTC()},
		authz.Verdict{Time: at.In(time.FixedZone("", 3600))})
	var got, want bytes.Buffer
	j := newJSONLines(&got)
	list = append(list, list...) // now with what is kept of lines before
	for i := range list {
		got.Reset()
		want.Reset()
		must(t, errors.Join(j.print(&list[i]), j.flush()))
		must(t, json.NewEncoder(&want).Encode(control.NewVerdict(&list[i])))
		if got.String() != want.String() {
			t.Errorf("got  %swant %s", got.String(), want.String())
		}
	}
}

func TestJSONLinesAllocateNothing(t *testing.T) {
	var out bytes.Buffer
	j := newJSONLines(&out)
	v := &authz.Verdict{
		Time:  time.Unix(1700000000, 5),
		Conn:  authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:51234"), Server: netip.MustParseAddrPort("192.0.2.1:110")},
		Login: authz.Login{Result: authz.Success, Mechanism: "USER", User: "alice"},
	}
	if n := testing.AllocsPerRun(100, func() {
		out.Reset()
		_, _ = j.print(v), j.flush()
	}); n != 0 {
		t.Errorf("%v allocations per line", n)
	}
}

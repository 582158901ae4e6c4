package logging

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"relaygate/authz/grant"
)

// slogged is the line as slog.TextHandler writes it.
func slogged(t *testing.T, now time.Time, c *grant.Change) string {
	t.Helper()
	var out bytes.Buffer
	if err := slog.NewTextHandler(&out, nil).Handle(context.Background(), record(now, c)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLinesOfChangesAreSlogs(t *testing.T) {
	var out bytes.Buffer
	l := changeLog{w: &out}
	for _, name := range []string{
		"", "alice", "a b", "a=b", `a"b`, `a\b`, "ünï", "\x00", "\xff", " ", "\u2028", "\ufffd", "\u202e", "a\nlevel=ERROR",
	} {
		for _, now := range []time.Time{time.Unix(1767323045, 0), time.Unix(1767323045, 678_900_000), time.Unix(1767323045, 679_000_000), time.Now()} {
			for kind := grant.Granted; kind <= grant.Resumed; kind++ {
				c := grant.Change{Kind: kind, Reason: name}
				if kind%2 == 0 {
					c.Grant = grant.Grant{
						Prefix: netip.MustParsePrefix("2001:db8::/64"), Users: []grant.User{{Name: name}}, Expires: now.Add(time.Hour),
					}
				}
				out.Reset()
				l.tell(now, &c)
				if got, want := out.String(), slogged(t, now, &c); got != want {
					t.Errorf("got  %swant %s", got, want)
				}
			}
		}
	}
}

// Whatever bytes a name holds, the line is slog's, but for DEL, which is quoted too; and
// it is one line.
func TestLinesOfAnyBytesAreSlogs(t *testing.T) {
	var out bytes.Buffer
	l := changeLog{w: &out}
	now := time.Unix(1767323045, 678_900_000)
	try := func(text string) {
		c := grant.Change{Kind: grant.Granted, Reason: text, Grant: grant.Grant{
			Prefix: netip.MustParsePrefix("192.0.2.7/32"), Users: []grant.User{{Name: text}},
		}}
		out.Reset()
		l.tell(now, &c)
		got, want := out.String(), slogged(t, now, &c)
		if strings.Contains(text, "\x7f") {
			if strings.Contains(got, "\x7f") {
				t.Errorf("%q: DEL is in the log: %q", text, got)
			}
		} else if got != want {
			t.Errorf("%q: got  %swant %s", text, got, want)
		}
		if strings.Count(got, "\n") != 1 {
			t.Errorf("%q is told in several lines: %q", text, got)
		}
	}
	for a := range 256 {
		try(string([]byte{byte(a)}))
		for b := range 256 {
			try(string([]byte{'x', byte(a), byte(b)}))
		}
	}
	for r := rune(0x80); r <= unicode.MaxRune; r += 1 + r/512 {
		try("x" + string(r))
	}
}

func BenchmarkLine(b *testing.B) {
	now := time.Now()
	c := grant.Change{Kind: grant.Granted, Reason: "login of alice", Grant: grant.Grant{
		Prefix: netip.MustParsePrefix("192.0.2.7/32"), Users: []grant.User{{Name: "alice"}}, Expires: now.Add(time.Hour),
	}}
	l := changeLog{w: new(bytes.Buffer)}
	b.ReportAllocs()
	for b.Loop() {
		l.w.(*bytes.Buffer).Reset()
		l.tell(now, &c)
	}
}

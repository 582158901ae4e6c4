package relayhosts

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func TestSubject(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.1":                   "192.0.2.1/32",
		" 192.0.2.1\t":                "192.0.2.1/32",
		"192.0.2.1: alice, bob":       "192.0.2.1/32",
		"192.0.2.1:alice":             "192.0.2.1/32",
		"192.0.2.1 alice":             "192.0.2.1/32",
		"192.0.2.1=alice":             "192.0.2.1/32",
		"192.0.2.0/24 OK":             "192.0.2.0/24",
		"192.0.2.7/24":                "192.0.2.0/24",
		"0.0.0.0/0":                   "0.0.0.0/0",
		"::ffff:192.0.2.1":            "192.0.2.1/32",
		`"2001:db8::1"`:               "2001:db8::1/128",
		`"2001:db8::1": alice`:        "2001:db8::1/128",
		"2001:db8::1":                 "2001:db8::1/128",
		"2001:db8::1: alice":          "2001:db8::1/128",
		"2001:DB8:0:0::1/64 OK":       "2001:db8::/64",
		"[2001:db8::1]":               "2001:db8::1/128",
		"[2001:db8::]/64":             "2001:db8::/64",
		"":                            "",
		`"`:                           "",
		"# 192.0.2.1":                 "",
		"mail.example.org":            "",
		"192.0.2":                     "",
		"192.0.2.300":                 "",
		"192.0.2.0/33":                "",
		strings.Repeat("\x00", 1<<16): "",
	} {
		got, ok := Subject(line)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%.40q is about %v, %v, want %q", line, got, ok, want)
		}
	}
}

// What stood in a file before the first start is explained for as long as its copy is
// there, also through the links of cPanel.
func TestBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "relayhosts")
	addr := netip.MustParseAddr
	if got, err := Before(path, addr("192.0.2.7")); got != nil || err != nil {
		t.Errorf("without a copy: %+v, %v", got, err)
	}
	put(t, path, "203.0.113.1\n192.0.2.0/29: somebody\n"+strings.Repeat("x", 1000)+"\n")
	write(t, NewWriter(Config{Hosts: path}), start, one(1))
	got, err := Before(path, addr("192.0.2.7"))
	if err != nil || got == nil || got.Path != path+BackupSuffix || got.Text != "192.0.2.0/29: somebody" || got.Prefix.String() != "192.0.2.0/29" || got.Time.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Now(path, addr("203.0.113.1")); err != nil || got == nil || got.Path != path || got.Text != "203.0.113.1" {
		t.Errorf("what it holds now: %+v, %v", got, err)
	}
	if got, err := Now(path, addr("192.0.2.7")); got != nil || err != nil {
		t.Errorf("what it holds no more: %+v, %v", got, err)
	}
	if got, err := Before(path, addr("192.0.2.8")); got != nil || err != nil {
		t.Errorf("an address that was not there: %+v, %v", got, err)
	}
}

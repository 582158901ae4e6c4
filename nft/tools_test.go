package nft

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"relaygate/bpf/bpftest"
)

// What the tools of administrators do to the gate, where they are installed.
func TestOtherTools(t *testing.T) {
	for _, tt := range []struct {
		command, input string
		want           error
	}{
		{"iptables-nft -F", "", nil},
		{"ip6tables-nft -F", "", nil},
		{"iptables-nft -t nat -F", "", nil},
		{"nft -f -", "table inet firewalld {\n chain in { type filter hook input priority 10; }\n}\ndelete table inet firewalld\n", nil},
		{"nft list ruleset", "", nil},
		{"nft -f -", "flush ruleset\ntable inet filter {\n chain in { type filter hook input priority 0; }\n}\n", ErrTableGone},
		{"nft flush ruleset", "", ErrTableGone},
		{"nft flush table inet relaygate", "", ErrChanged},
		{"nft flush chain inet relaygate gate", "", ErrChanged},
	} {
		t.Run(tt.command, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			args := strings.Fields(tt.command)
			requireTool(t, args[0])
			g := openGate(t, inMode(Filter, ns))
			rebuild(t, g, minute(member4)...)
			bpftest.Do(t, ns, func() error {
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Stdin = strings.NewReader(tt.input)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Logf("%s", out)
				}
				return err
			})
			if err := g.Check(); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// requireTool skips a test without a program, which in CI is there.
func requireTool(t *testing.T, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("needs %s: %v", name, err)
	}
	must(t, err)
}

func requireNft(t *testing.T) { t.Helper(); requireTool(t, "nft") }

// nft(8) reads back each mode as it was meant.
func TestListedByNft(t *testing.T) {
	requireNft(t)
	for _, tt := range []struct {
		mode  Mode
		ports []uint16
		want  []string
	}{
		{Filter, []uint16{25}, []string{
			"type filter hook prerouting priority dstnat - 10; policy accept;",
			`th dport 25 tcp flags syn / syn,ack iifname != "lo" fib daddr type local jump gate`,
			"ip saddr @allow4 update @rate4 { ip saddr limit rate over 60/minute burst 60 packets } jump too_fast",
			"update @fast4 { ip saddr counter }",
			"ip6 saddr @allow6 add @conn6 { ip6 saddr ct count over 10 } jump too_many",
		}},
		{Filter, []uint16{25, 587}, []string{
			`tcp flags syn / syn,ack tcp dport @ports iifname != "lo" fib daddr type local jump gate`,
		}},
		{Redirect, []uint16{25}, []string{
			"type nat hook prerouting priority dstnat - 10; policy accept;",
			"ip saddr @allow4 counter packets 0 bytes 0 dnat to :925",
			"ip6 saddr @static6 counter packets 0 bytes 0 dnat to :925",
			"type filter hook input priority 100; policy accept;",
			`th dport 925 tcp flags syn / syn,ack iifname != "lo" jump guard`,
		}},
		{Mark, []uint16{25}, []string{
			"type filter hook prerouting priority mangle + 1; policy accept;",
			"th dport 25 meta l4proto tcp meta mark set meta mark & 0xffefffff",
			"ip saddr @allow4 counter packets 0 bytes 0 meta mark set meta mark | 0x00100000",
			"ip saddr @allow4 update @rate4 { ip saddr limit rate over 60/minute burst 60 packets } jump too_fast",
		}},
		{Gateway, []uint16{25}, []string{
			"type filter hook forward priority filter - 10; policy accept;",
			"th dport 25 meta l4proto tcp jump guard",
			"type filter hook output priority filter - 10; policy accept;",
			"th dport 25 meta l4proto tcp fib saddr type != local jump guard",
			"tcp flags syn / syn,ack ip daddr @servers4 jump gate",
			"ip6 daddr @servers6 ct state new jump gate",
			"ip6 daddr @servers6 ct direction reply jump gate",
		}},
	} {
		ns := bpftest.Namespace(t)
		cfg := inMode(tt.mode, ns)
		cfg.Ports = tt.ports
		cfg.Brakes, cfg.Servers = Brakes{NewPerMinute: 60, Concurrent: 10}, cfg.Static
		rebuild(t, openGate(t, cfg))
		var out []byte
		bpftest.Do(t, ns, func() (err error) {
			out, err = exec.Command("nft", "list", "table", "inet", Table).CombinedOutput()
			return err
		})
		for _, line := range tt.want {
			if !strings.Contains(string(out), line) {
				t.Errorf("%s: nft lists no %q in\n%s", tt.mode, line, out)
			}
		}
	}
}

// A ruleset that was saved with the gate does not load while that is claimed, and changes
// nothing then; afterwards it brings back the gate with its members.
func TestSavedRuleset(t *testing.T) {
	requireNft(t)
	w := newWorld(t)
	serve(t, w.server, 25)
	g, err := Open(inMode(Filter, w.server))
	must(t, err)
	must(t, g.Claim())
	rebuild(t, g, minute(member4)...)
	var saved []byte
	bpftest.Do(t, w.server, func() (err error) {
		saved, err = exec.Command("nft", "list", "ruleset").Output()
		return err
	})
	if !strings.Contains(string(saved), "leave it out of a ruleset that you save") {
		t.Errorf("the claim does not say what to do:\n%s", saved)
	}
	load := func() (out []byte, err error) {
		bpftest.Do(t, w.server, func() error {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader("flush ruleset\n" + string(saved))
			out, err = cmd.CombinedOutput()
			return nil
		})
		return out, err
	}
	if out, err := load(); err == nil || !strings.Contains(string(out), "not permitted") {
		t.Errorf("while the gate is claimed: %v, %s", err, out)
	}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
	must(t, g.Close())
	commit(t, another(t, w.server), flushRuleset())
	if out, err := load(); err != nil {
		t.Errorf("afterwards: %v, %s", err, out)
	}
	w.expect(t, "member", member4, server4, 25, true)
	w.expect(t, "stranger", strange4, server4, 25, false)
	if err := openGate(t, inMode(Filter, w.server)).Claim(); err != nil {
		t.Error(err)
	}
}

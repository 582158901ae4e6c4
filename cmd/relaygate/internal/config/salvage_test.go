package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSalvage(t *testing.T) {
	const files = "[files]\nrelayhosts = \"/etc/relayhosts\" # for Exim\n"
	for _, tt := range []struct {
		name, text string
		hosts      string
		exit       OnExit
	}{
		{"an unknown key", "[bogus]\nx = 1\n" + files, "/etc/relayhosts", ExitExpire},
		{"no syntax", "[gate\nmode = filter\n" + files + "= =\n", "/etc/relayhosts", ExitExpire},
		{"no syntax behind", files + "[gate]\nmode = \"filter\n", "/etc/relayhosts", ExitExpire},
		{"to be kept", files + "[gate]\non_exit = \"keep\"\nmode = 7\n", "/etc/relayhosts", ExitKeep},
		{"a list of several lines", "[grant]\nnever = [\n  \"10.0.0.0/8\",\n" + files, "/etc/relayhosts", ExitExpire},
		{"in another table", "[state]\nrelayhosts = \"/etc/passwd\"\n", "", ExitExpire},
		{"no path", "[files]\nrelayhosts = \"relayhosts\"\n", "", ExitExpire},
		{"of another kind", "[files]\nrelayhosts = 7\n", "", ExitExpire},
		{"nothing", "", "", ExitExpire},
		{"no text", "\x00\xff\n" + files, "/etc/relayhosts", ExitExpire},
	} {
		path := filepath.Join(t.TempDir(), "relaygate.toml")
		must(t, os.WriteFile(path, []byte(tt.text), 0o600))
		cfg, ok := Salvage(path)
		if !ok || cfg.Relayhosts != tt.hosts || cfg.Gate.OnExit != tt.exit || cfg.Socket != "/run/relaygate/control.sock" {
			t.Errorf("%s: %v, %+v", tt.name, ok, cfg)
		}
	}
	if cfg, ok := Salvage("/nonexistent"); ok || cfg.Relayhosts != "" || cfg.StatePath != "/var/lib/relaygate/state.db" {
		t.Errorf("of no file: %v, %+v", ok, cfg)
	}
}

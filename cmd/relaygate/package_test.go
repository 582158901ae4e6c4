package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/bpf/bpftest"
)

// packaged runs what a package's removal and purge run, in folders of its own: before and
// between is what the shell does besides. It returns what the two files hold then.
func packaged(t *testing.T, config, before, between string) (hosts, users string) {
	t.Helper()
	bpftest.RequireRoot(t)
	scripts, err := filepath.Abs("packaging")
	must(t, err)
	dir := t.TempDir()
	for _, name := range []string{"systemctl", "nft"} { // those of this host are left alone
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o700))
	}
	c := exec.Command("unshare", "--mount", "sh", "-ec", strings.Join([]string{
		"mount -t tmpfs none /etc; mount -t tmpfs none /var/lib; mkdir /etc/relaygate /var/lib/relaygate; cd /etc",
		"cat >relaygate/relaygate.toml", before,
		"sh " + scripts + "/preremove.sh remove; sh " + scripts + "/postremove.sh remove", between,
		"rm -r relaygate; sh " + scripts + "/postremove.sh purge; [ ! -e /var/lib/relaygate ]",
		"cp /etc/relayhosts /etc/users " + dir,
	}, "\n"))
	c.Env, c.Stdin = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH")), strings.NewReader(config)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return string(text)
	}
	return read("relayhosts"), read("users")
}

// A purge empties the files as they were left at the removal, wherever they are: of
// grant.always, and with gate.on_exit keep of all, there are lines. What another program
// wrote since is that one's.
func TestPurgeEmptiesTheFiles(t *testing.T) {
	const tables = "[files]\nrelayhosts = \"/etc/relayhosts\" # a word\n  users='/etc/users'\n"
	const left = "echo 192.0.2.1 >relayhosts; echo '192.0.2.1: alice' >users"
	for _, tt := range []struct{ name, config, before, between, hosts, users string }{
		{"as left", tables, left, "", "", ""},
		{"dotted keys", "files.relayhosts = \"/etc/relayhosts\"\nfiles.users = \"/etc/users\"", left, "", "", ""},
		{"a link", tables, left + "; mv relayhosts far; ln -s far relayhosts", "", "", ""},
		{"a link of another user's", tables, left + "; mv relayhosts far; ln -s far relayhosts; chown -h 12345 relayhosts", "", "192.0.2.1\n", ""},
		{"another program's since", tables, left, "echo 192.0.2.2 >relayhosts", "192.0.2.2\n", ""},
		{"not relaygate's", "[files]\nrelayhosts = \"\"\n#users = \"/etc/users\"", left, "", "192.0.2.1\n", "192.0.2.1: alice\n"},
		{"one that is gone", tables, left + "; rm relayhosts", "echo 192.0.2.2 >relayhosts", "192.0.2.2\n", ""},
	} {
		hosts, users := packaged(t, tt.config, tt.before, tt.between)
		if hosts != tt.hosts || users != tt.users {
			t.Errorf("%s: relayhosts %q, users %q, want %q and %q", tt.name, hosts, users, tt.hosts, tt.users)
		}
	}
}

package offline

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/state"
)

var must = bpftest.Must

// left behind by a daemon that wrote relayhosts, with these grants, and denied
// 203.0.113.0/24.
func leave(t *testing.T, relayhosts string, now time.Time, grants ...grant.Grant) *Daemon {
	t.Helper()
	folder := t.TempDir()
	cfg, err := config.Parse("test", fmt.Appendf(nil, "[files]\nrelayhosts = %q\n[state]\npath = %q\n[grant]\nalways = [\"198.51.100.0/24\"]\n",
		filepath.Join(folder, "relayhosts"), filepath.Join(folder, "state.db")))
	must(t, err)
	must(t, os.WriteFile(cfg.Relayhosts, []byte(relayhosts), 0o644))
	s, err := state.Open(cfg.StatePath, now)
	must(t, err)
	for _, g := range grants {
		saved := grant.Save(now, grant.Boot{}, g)
		s.Put("grants", g.Prefix.String(), state.AppendGrant(nil, &saved))
	}
	denial, err := state.Encode(grant.Denial{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Since: now, By: "root", Note: "sends spam"})
	must(t, err)
	s.Put("denials", "203.0.113.0/24", denial)
	must(t, s.Close())
	return &Daemon{Config: cfg, File: "test", Silence: &control.SilentError{Socket: cfg.Socket, Err: syscall.ENOENT}}
}

func manual(addr string, from, until time.Time) grant.Grant {
	return grant.Grant{Prefix: netip.MustParsePrefix(addr + "/32"), Since: from, Expires: until, Source: grant.Manual, By: "root"}
}

func TestWhy(t *testing.T) {
	now := time.Now().Add(time.Second) // than which the state is older
	d := leave(t, "192.0.2.7\n192.0.2.8\n192.0.2.99\n", now.Add(-time.Second),
		manual("192.0.2.7", now.Add(-time.Hour), now.Add(time.Hour)), manual("192.0.2.8", now.Add(-time.Hour), now.Add(-time.Minute)))
	for _, gone := range []bool{false, true} {
		if gone {
			must(t, os.Remove(d.Config.StatePath))
		}
		for _, tt := range []struct {
			addr, with, without string // what is said with and without a state
			granted, inFile     bool
			file                string // what is said of it with a state
		}{
			{"192.0.2.7", "has a grant: granted by hand by root", "cannot be explained", true, true, "nobody takes it out"},
			{"192.0.2.8", "has no grant: its grant ran out 60 s ago", "cannot be explained", false, true, "nobody takes it out"},
			{"192.0.2.99", "has no grant: nothing has been seen from it", "cannot be explained", false, true, "relaygate knows nothing of it, so somebody else wrote that"},
			{"11.22.33.44", "has no grant: nothing has been seen from it", "cannot be explained", false, false, "does not name it"},
			{"203.0.113.9", "has no grant: it is denied (203.0.113.0/24) by root: sends spam", "cannot be explained", false, false, "does not name it"},
			{"198.51.100.9", "has a grant: it is always allowed", "has a grant: it is always allowed", true, false, "does not name it"},
			{"127.0.0.1", "holds no grant: it is", "holds no grant: it is", false, false, "does not name it"},
		} {
			s, err := d.Why(netip.MustParseAddr(tt.addr), now)
			must(t, err)
			want, granted := tt.with, tt.granted
			if gone {
				want, granted = tt.without, strings.HasPrefix(tt.without, "has a")
			}
			o := s.Offline
			if !strings.HasPrefix(s.Reason, want) || s.Granted != granted || o.InFile == nil || *o.InFile != tt.inFile || o.AsOf.IsZero() != gone || (o.Error != "") != gone {
				t.Errorf("%s, no state %v: granted %v: %s; %+v", tt.addr, gone, s.Granted, s.Reason, o)
			}
			file := tt.file
			if gone && tt.inFile {
				file = "if relaygate has not run here before, somebody else wrote that"
			}
			if words := strings.Join(o.Files, "\n"); !strings.Contains(words, file) {
				t.Errorf("%s, no state %v: %s", tt.addr, gone, words)
			}
			if !strings.HasPrefix(o.Why, "relaygate does not run") || !strings.HasPrefix(o.Next, "start it: ") || strings.Contains(o.Next, "why it ended") == gone {
				t.Errorf("%s; %s", o.Why, o.Next)
			}
		}
	}
}

// The lines that a crash left without a grant are told, but not without end.
func TestListTellsLinesWithoutAGrant(t *testing.T) {
	now := time.Now().Add(time.Second) // likewise
	for _, tt := range []struct {
		lines int
		want  string
	}{
		{0, "relayhosts names 1 client"},
		{2, "relayhosts names 3 clients; of them without a grant: 10.0.0.0, 10.0.0.1"},
		{21, "21 of them have no grant: 10.0.0.0, 10.0.0.1,"},
	} {
		text := "192.0.2.7\n"
		for i := range tt.lines {
			text += fmt.Sprintf("10.0.0.%d\n", i)
		}
		d := leave(t, text, now.Add(-time.Second), manual("192.0.2.7", now.Add(-time.Hour), now.Add(time.Hour)))
		list, about, err := d.Grants(now)
		must(t, err)
		if len(list) != 2 || list[0].Name() != "192.0.2.7" || list[0].AsOf.IsZero() || !list[1].Since.IsZero() {
			t.Errorf("%+v", list)
		}
		if words := strings.Join(about.Files, "\n"); !strings.Contains(words, tt.want) || strings.Count(words, "10.0.0.") > mostTold {
			t.Errorf("%d lines: %s", tt.lines, words)
		}
	}
}

// What it names is asked for where there is a mistake, and what to mend is said.
func TestMistakes(t *testing.T) {
	now := time.Now().Add(time.Second) // than which the state is older
	d := leave(t, "192.0.2.7\n", now.Add(-time.Second), manual("192.0.2.7", now.Add(-time.Hour), now.Add(time.Hour)))
	_, d.Mistakes = config.Parse("/etc/relaygate/relaygate.toml", []byte("[gate]\nmode = \"filtre\"\n[x]\ny = 1\n"))
	s, err := d.Why(netip.MustParseAddr("192.0.2.7"), now)
	if err != nil || !s.Granted || !strings.HasPrefix(s.Offline.Next, "mend its configuration (/etc/relaygate/relaygate.toml:") || strings.Contains(s.Offline.Next, "\n") {
		t.Errorf("%v, %+v", err, s.Offline)
	}
	if s, err := d.Status(now); err != nil || s.Grants != 2 || s.Denials != 1 || len(s.Problems) != 1 || s.Offline == nil {
		t.Errorf("%v, %+v", err, s)
	}
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

var must = bpftest.Must

func TestWhatIsMissingAndWhatIsUnseen(t *testing.T) {
	refused, bad := Unseen, false
	if os.Geteuid() == 0 { // a daemon would be refused too
		refused, bad = Missing, true
	}
	for _, tt := range []struct {
		name   string
		needed bool
		err    error
		want   State
		bad    bool
	}{
		{"there", true, nil, OK, false},
		{"not there", false, errors.New("no such feature"), Missing, false},
		{"needed", true, errors.New("no such feature"), Missing, true},
		{"not allowed", true, unix.EPERM, refused, bad},
		{"no permission", true, &fs.PathError{Op: "open", Path: "/x", Err: unix.EACCES}, refused, bad},
	} {
		f := found("x", tt.needed, "is there", tt.err, "that is lost")
		if f.State != tt.want || f.Bad() != tt.bad {
			t.Errorf("%s: %+v, want %s, bad %v", tt.name, f, tt.want, tt.bad)
		}
	}
}

func TestSecondLockIsAdvisedWhereTheGateCloses(t *testing.T) {
	for mode, want := range map[nft.Mode]bool{
		nft.Observe: false, nft.Filter: true, nft.Redirect: true,
		nft.Mark: true, nft.UserSets: true, nft.Gateway: true,
	} {
		cfg := &config.Config{Gate: config.Gate{Mode: mode, Ports: []uint16{25}}}
		if got := secondLock(cfg); (len(got) == 1) != want {
			t.Errorf("%s: %+v, want advice: %v", mode, got, want)
		}
	}
}

func TestFoldersOfOthersAreTold(t *testing.T) {
	dir := t.TempDir()
	cfg := &config.Config{Relayhosts: dir + "/relayhosts"}
	if got := files(cfg); len(got) != 1 || got[0].State != OK {
		t.Errorf("%+v, want all good", got)
	}
	must(t, os.Chmod(dir, 0o777))
	if got := files(cfg); len(got) != 1 || !got[0].Bad() {
		t.Errorf("%+v, want a folder that is open to others", got)
	}
	for _, no := range []string{"/dev/null", "/"} {
		if got := files(&config.Config{Relayhosts: no}); len(got) != 1 || !got[0].Bad() || !strings.Contains(got[0].Words, "is no file") {
			t.Errorf("%s: %+v", no, got)
		}
	}
}

// What the start makes needs a folder that can be written to, or be made.
func TestPlacesThatCannotBeWrittenAreTold(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	for path, bad := range map[string]bool{
		dir + "/state.db": false, dir + "/to/be/made/state.db": false, dir + "/file/state.db": true, "/proc/sys/state.db": true,
	} {
		got := places(&config.Config{StatePath: path, Socket: dir + "/control.sock"})
		if len(got) != 2 || got[0].Bad() != bad || got[1].State != OK {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// A listener that the daemon would not believe is no good news.
func TestDoubtfulListenersAreTold(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	uid := uint32(os.Getuid())
	for _, tt := range []struct {
		name   string
		cfg    config.Config
		state  State
		advice string
	}{
		{"an owner who is trusted", config.Config{Owners: []uint32{uid}}, OK, ""},
		{"another", config.Config{Owners: []uint32{uid + 1}}, Advice, fmt.Sprintf("belongs to uid %d, who is not trusted: if the mail server runs as that user, name it in watch.owners", uid)},
		{"of no watched port", config.Config{Owners: []uint32{uid + 1}, Gate: config.Gate{Ports: []uint16{port}}}, OK, ""},
	} {
		if len(tt.cfg.Gate.Ports) == 0 {
			tt.cfg.Services = map[uint16]authz.Service{port: {Protocol: authz.IMAP}}
		}
		got := listeners(&tt.cfg)
		if len(got) != 1 || got[0].State != tt.state || !strings.Contains(got[0].Then, tt.advice) || got[0].Words == "" || tt.advice == "" && got[0].Then != "" {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// A program that only hands connections on, as docker-proxy does, is told on every port,
// with what to do, and on a gateway that it leads around the gate.
func TestForwardersAreTold(t *testing.T) {
	bpftest.RequireRoot(t)
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	rename := func(to []byte) { must(t, os.WriteFile("/proc/self/comm", to, 0)) }
	defer rename(name)
	rename([]byte("docker-proxy"))
	container := bpftest.Namespace(t)
	for _, addr := range []string{"127.0.0.1:24", ":25", ":110", ":925"} {
		bpftest.Listen(t, container, "tcp4", addr)
	}
	trusted := []string{fmt.Sprintf("/proc/self/fd/%d", container.FD())}
	for _, tt := range []struct {
		name   string
		look   func(*config.Config) []Finding
		cfg    config.Config
		want   string // subject and words
		advice string
	}{
		{
			"watched", listeners,
			config.Config{TrustedNetns: trusted, Services: map[uint16]authz.Service{110: {Protocol: authz.POP3}}},
			"port 110: ", "watch.trusted_netns",
		},
		{"guarded", listeners, config.Config{TrustedNetns: trusted, Gate: config.Gate{Ports: []uint16{25}}}, "port 25: ", "this host's address"},
		{
			"relay port", listeners,
			config.Config{TrustedNetns: trusted, Gate: config.Gate{Mode: nft.Redirect, RelayPort: 925}},
			"port 925: ", "this host's address",
		},
		{"on a gateway", around, config.Config{TrustedNetns: trusted, Gate: config.Gate{Ports: []uint16{24, 25}}}, "port 25: ", "passes the gate"},
		{
			"no such namespace", around,
			config.Config{TrustedNetns: []string{"/proc/0/ns/net"}, Gate: config.Gate{Ports: []uint16{24}}},
			"network namespace: open network namespace", "correct watch.trusted_netns",
		},
	} {
		tt.cfg.Owners = []uint32{0}
		got := tt.look(&tt.cfg)
		if len(got) != 1 || got[0].State == OK || !strings.HasPrefix(got[0].Subject+": "+got[0].Words, tt.want) || !strings.Contains(got[0].Then, tt.advice) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestTheDaemonsProblemsAreTold(t *testing.T) {
	ask := func(s control.Status, err error) []Finding {
		return daemon(t.Context(), Patient{Config: &config.Config{}, Status: func(context.Context) (control.Status, error) { return s, err }})
	}
	if got := ask(control.Status{}, errors.New("is relaygate running?")); len(got) != 1 || got[0].State != Advice || got[0].Bad() {
		t.Errorf("no daemon: %+v", got)
	}
	if got := ask(control.Status{Gate: control.Gate{Mode: nft.Filter.String()}}, nil); len(got) != 2 || !strings.Contains(got[1].Words, "another configuration") {
		t.Errorf("a daemon of another mode: %+v", got)
	}
	got := ask(control.Status{
		Version: "1", Gate: control.Gate{Mode: nft.Observe.String()}, Problems: []string{"4 of 5 TLS servers are seen", "it is paused"},
		TLS: control.TLS{Lacks: "4 of 5 TLS servers are seen", Servers: []control.TLSServer{
			{TLS: true, Seen: true, Words: "a", Libraries: []control.TLSLibrary{{Others: []control.Text{"httpd"}}, {Others: []control.Text{"httpd", "sshd"}}}},
			{TLS: true, Words: "b"},
			{Words: "c"},
		}},
	}, nil)
	if len(got) != 4 || got[1].Words != "a; each call of a library costs a trap, also those of httpd, sshd" || got[0].State != OK || got[1].State != OK || got[2].State != Advice || !strings.Contains(got[2].Words, "4 of 5") || got[3].Words != "it is paused" {
		t.Errorf("daemon: %+v", got)
	}
}

// Where any user may listen on low ports too, that is told of the relay port.
func TestRelayPortOfAnybodyIsTold(t *testing.T) {
	bpftest.RequireRoot(t)
	cfg := &config.Config{Gate: config.Gate{Mode: nft.Redirect, RelayPort: 925}}
	for first, want := range map[string]bool{"1024": false, "926": false, "925": true, "0": true} {
		bpftest.In(t, bpftest.Namespace(t), func() {
			must(t, os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte(first), 0))
			told := slices.ContainsFunc(listeners(cfg), func(f Finding) bool { return strings.Contains(f.Words, "any user of this host") })
			if told != want {
				t.Errorf("from port %s on any user may listen: told %v, want %v", first, told, want)
			}
		})
	}
}

// Who may not ask the daemon is not told to start it.
func TestDaemonThatMayNotBeAsked(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want State
		then string
	}{
		{errors.New("cannot connect"), Advice, "start it"},
		{fmt.Errorf("the socket is for root (%w)", fs.ErrPermission), Unseen, "as root"},
	} {
		status := func(context.Context) (control.Status, error) { return control.Status{}, tt.err }
		got := daemon(t.Context(), Patient{Status: status})
		if len(got) != 1 || got[0].State != tt.want || !strings.Contains(got[0].Then, tt.then) {
			t.Errorf("%v: %+v", tt.err, got)
		}
	}
}

// Whoever wonders about addresses in a list that relaygate does not write is told so.
func TestForeignList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	if got := foreign(path); got != nil {
		t.Errorf("of no file: %+v", got)
	}
	for text, want := range map[string]string{
		"": "", "host.example\n": "", "192.0.2.1\n": "names 1 client:", "192.0.2.1\n\"2001:db8::1\"\n192.0.2.0/24\n": "names 3 clients:",
	} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		got := foreign(path)
		if want == "" && got != nil || want != "" && (len(got) != 1 || got[0].State != Advice || !strings.Contains(got[0].Words, path+" "+want)) {
			t.Errorf("of %q: %+v, want %q", text, got, want)
		}
	}
}

// Where a client in a container can log in without a password, that is told.
func TestLentMemoryIsTold(t *testing.T) {
	seen, locked := func() error { return nil }, func() error { return errors.New("locked down") }
	for _, tt := range []struct {
		tap  config.Tap
		have func() error
		want State
	}{
		{config.TapAuto, seen, OK},
		{config.TapAuto, locked, Missing},
		{config.TapCgroup, locked, Missing},
		{config.TapTCX, locked, OK}, // its kernels always tell
		{config.TapAFPacket, seen, Missing},
	} {
		got := lent(&config.Config{Tap: tt.tap}, tt.have)
		if got.State != tt.want || got.Bad() || (got.Then == "") != (tt.want == OK) {
			t.Errorf("tap %d: %+v, want %s", tt.tap, got, tt.want)
		}
	}
}

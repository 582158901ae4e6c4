package config

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
	"relaygate/bpf/bpftest"
	"relaygate/nft"
)

var must = bpftest.Must

var defaultGate = Gate{
	Mode: nft.Observe, Ports: []uint16{25}, RelayPort: 925, Mark: 0x100000,
	Sets:            nft.Sets{Allow4: "allow4", Allow6: "allow6", Net6: "net6"},
	MaxNewPerMinute: 60, MaxConcurrent: 20,
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	got, err := Default()
	must(t, err)
	want := &Config{
		Services: map[uint16]authz.Service{
			110: {Protocol: authz.POP3}, 995: {Protocol: authz.POP3, ImplicitTLS: true},
			143: {Protocol: authz.IMAP}, 993: {Protocol: authz.IMAP, ImplicitTLS: true},
		},
		Owners:     []uint32{0},
		Interfaces: []string{},
		Lifetime:   30 * time.Minute, FollowSessions: true,
		MaxSession: 24 * time.Hour,
		IPv6Prefix: 128, MaxUsers: 5, MaxAddresses: 20, TLS: true,
		Gate:      defaultGate,
		StatePath: "/var/lib/relaygate/state.db", Retain: 30 * 24 * time.Hour,
		Socket: "/run/relaygate/control.sock",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("defaults differ (-want +got):\n%s", d)
	}
}

func TestParseValues(t *testing.T) {
	got, err := Parse("x.toml", []byte(`
[watch]
pop3 = [1110]
imap = []
owners = ["0", "4242"]
trusted_proxies = ["2001:db8::/32"]
trusted_netns = ["mail", "/proc/812/ns/net"]
[grant]
lifetime = "6s"
ipv6_prefix = 64
never = ["192.0.2.7", "::ffff:192.0.2.8"]
max_session = "1h"
[gate]
mode = "sets"
ports = [25, 587]
mark = "0x40"
max_concurrent = 0
on_exit = "close"
sets = { table = "inet filter" }
[files]
relayhosts = "/etc/relayhosts"
dialect = "plain"
[state]
retain = "7d"
[metrics]
listen = "[2001:db8:0::1]:9125"
`))
	must(t, err)
	gate := defaultGate
	gate.Mode, gate.Named, gate.Ports, gate.OnExit = nft.UserSets, true, []uint16{25, 587}, ExitClose
	gate.Sets.Family, gate.Sets.Table = "inet", "filter"
	gate.Mark, gate.MaxConcurrent = 0x40, 0
	want := &Config{
		Services:       map[uint16]authz.Service{1110: {Protocol: authz.POP3}},
		Owners:         []uint32{0, 4242},
		Interfaces:     []string{},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")},
		Lifetime:       6 * time.Second, FollowSessions: true, IPv6Prefix: 64, MaxUsers: 5, MaxAddresses: 20,
		Never: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.8/32")},
		TLS:   true, TrustedNetns: []string{"/run/netns/mail", "/proc/812/ns/net"}, MaxSession: time.Hour,
		Gate: gate, StatePath: "/var/lib/relaygate/state.db", Retain: 7 * 24 * time.Hour,
		Relayhosts: "/etc/relayhosts", Dialect: relayhosts.Plain,
		Socket: "/run/relaygate/control.sock", Metrics: "[2001:db8::1]:9125",
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Errorf("config differs (-want +got):\n%s", d)
	}
}

func TestTapWords(t *testing.T) {
	const gateway = "[gate]\nmode = \"gateway\"\nservers = [\"198.51.100.0/28\"]\n"
	for _, tt := range []struct{ name, file, want string }{
		{"everywhere", "", ""},
		{"host", "[watch]\ntap = \"tcx\"\ninterfaces = [\"eth0\", \"eth1\"]\n", "Connections are seen on the interfaces eth0, eth1: by programs there (tcx)."},
		{"host, old kernel", "[watch]\ntap = \"afpacket\"\ninterfaces = [\"eth0\"]\n", "Connections are seen on the interfaces eth0: by a packet socket there."},
		{"host, perhaps", "[watch]\ninterfaces = [\"eth0\"]\n", "Connections are seen on the interfaces eth0 where cgroups cannot be used: by programs there (tcx) or, where the kernel is too old, by a packet socket."},
		{"gateway", "[watch]\ntap = \"tcx\"\ninterfaces = [\"lan\"]\n" + gateway, "The mail servers are 198.51.100.0/28, behind this host on its interfaces lan: by programs there (tcx)."},
		{"gateway, two interfaces", "[watch]\ninterfaces = [\"lan\", \"dmz\"]\n" + gateway, "The mail servers are 198.51.100.0/28, behind this host on its interfaces lan, dmz: by programs there (tcx) or, where the kernel is too old, by a packet socket, so that no session is followed."},
		{"gateway, perhaps", "[watch]\ninterfaces = [\"lan\"]\n" + gateway, "The mail servers are 198.51.100.0/28, behind this host on its interfaces lan: by programs there (tcx) or, where the kernel is too old, by a packet socket, so that no session is followed."},
		{"gateway, old kernel", "[watch]\ntap = \"afpacket\"\ninterfaces = [\"lan\"]\n" + gateway, "The mail servers are 198.51.100.0/28, behind this host on its interfaces lan: by a packet socket there, so that no session is followed."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("x.toml", []byte(tt.file))
			must(t, err)
			if got := cfg.tapWords(); got != tt.want {
				t.Errorf("got %q", got)
			}
			if words := cfg.Words(); cfg.Inside() && !strings.Contains(words[0], "in clear text alone") {
				t.Errorf("%q does not tell that TLS is not read", words[0])
			}
		})
	}
}

func TestMistakesNameFileLineAndKey(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"no TOML", "[watch\n", "x.toml:1: "},
		{"unknown key", "[watch]\n\npop4 = [110]\n", "x.toml:3: watch.pop4: unknown key"},
		{"unknown table", "[wacth]\npop3 = [110]\n", "unknown key"},
		{"wrong type", "[watch]\npop3 = \"110\"\n", "x.toml:2: watch.pop3: is of another kind than its default, which is [110, 995]"},
		{"a table twice", "[gate]\nmode = \"mark\"\n\n[gate] # again\nmode = \"filter\"\n", "x.toml:4: gate: stands in line 1 already: write it once"},
		{"a table in a table twice", "[gate.sets]\n[gate]\n[gate.sets]\n", "x.toml:3: gate.sets: stands in line 1 already"},
		{"a key twice", "[gate]\nown = true\nmode = \"mark\"\nmode = \"filter\"\n", "x.toml:4: mode: stands in line 3 already"},
		{"a number for a text", "[gate]\n\nmode = 1\n", "x.toml:3: gate.mode: is of another kind than its default, which is \"observe\""},
		{"a number for a table", "[gate]\nsets = 1\n", "x.toml:2: gate.sets: is of another kind"},
		{"no quotation marks", "[gate]\nmode = filter # today\n", ": text stands in quotation marks"},
		{"no quotation marks, a path", "[files]\nrelayhosts = /etc/relayhosts\n", ": text stands in quotation marks"},
		{"capital letters", "[Gate]\nMode = \"filter\"\n", "x.toml:2: Gate.Mode: keys are written in small letters"},
		{"port 0", "[watch]\npop3 = [0]\n", "x.toml:2: watch.pop3: 0 is no port"},
		{"port twice", "[watch]\npop3 = [110]\nimap = [110]\n", "x.toml:3: watch.imap: port 110 is named twice"},
		{"nothing watched", "[watch]\npop3 = []\nimap = []\n", "nothing is watched"},
		{"tap", "[watch]\ntap = \"pcap\"\n", `watch.tap: "pcap" is none of`},
		{"tcx without interfaces", "[watch]\ntap = \"tcx\"\n", "watch.interfaces: tap \"tcx\" needs"},
		{"interface without a name", "[watch]\ninterfaces = [\"\"]\n", "x.toml:2: watch.interfaces: \"\" is no interface's name"},
		{"interface with a long name", "[watch]\ninterfaces = [\"sixteen-letters-\"]\n", "is no interface's name"},
		{"interface that is a path", "[watch]\ninterfaces = [\"a/b\"]\n", "is no interface's name"},
		{"interface twice", "[watch]\ninterfaces = [\"eth0\", \"eth0\"]\n", "x.toml:2: watch.interfaces: \"eth0\" is named twice"},
		{"gateway without interfaces", "[gate]\nmode = \"gateway\"\nservers = [\"192.0.2.1\"]\n", "watch.interfaces: gate mode \"gateway\" needs the interfaces that lead to the mail servers"},
		{"gateway, cgroup", "[watch]\ntap = \"cgroup\"\n[gate]\nmode = \"gateway\"\nservers = [\"192.0.2.1\"]\n", "x.toml:2: watch.tap: tap \"cgroup\" sees this host's own connections alone"},
		{"too many servers", "[gate]\nservers = [" + strings.Repeat("\"192.0.2.1\",", 4097) + "]\n", "x.toml:2: gate.servers: 4097 addresses"},
		{"packet socket, trusted namespaces", "[watch]\ntap = \"afpacket\"\ninterfaces = [\"a\"]\ntrusted_netns = [\"mail\"]\n", "x.toml:4: watch.trusted_netns: tap \"afpacket\" does not show"},
		{"tcx, trusted namespaces", "[watch]\ntap = \"tcx\"\ninterfaces = [\"a\"]\ntrusted_netns = [\"mail\"]\n", "x.toml:4: watch.trusted_netns: tap \"tcx\" does not show"},
		{"afpacket without interfaces", "[watch]\ntap = \"afpacket\"\n", "watch.interfaces: tap \"afpacket\" needs"},
		{"cgroup with interfaces", "[watch]\ntap = \"cgroup\"\ninterfaces = [\"eth0\"]\n", "x.toml:3: watch.interfaces: "},
		{"netns", "[watch]\ntrusted_netns = [\"a/b\"]\n", "x.toml:2: watch.trusted_netns: \"a/b\" is neither"},
		{"netns above", "[watch]\ntrusted_netns = [\"..\"]\n", "is no network namespace"},
		{"owner", "[watch]\nowners = [\"no-such-user-here\"]\n", "there is no user"},
		{"owner negative", "[watch]\nowners = [\"-1\"]\n", "there is no user"},
		{"no owner", "[watch]\nowners = []\n", "names nobody"},
		{"proxy", "[watch]\ntrusted_proxies = [\"proxy.example\"]\n", "is no address or prefix"},
		{"lifetime 0", "[grant]\nlifetime = \"0s\"\n", "is not between"},
		{"lifetime negative", "[grant]\nlifetime = \"-5m\"\n", "is not between"},
		{"lifetime endless", "[grant]\nlifetime = \"400d\"\n", "is not between 1s and 30 days"},
		{"lifetime words", "[grant]\nlifetime = \"half an hour\"\n", "x.toml:2: grant.lifetime: \"half an hour\" is no duration"},
		{"lifetime days", "[grant]\nlifetime = \"-1d\"\n", "is no duration"},
		{"prefix", "[grant]\nipv6_prefix = 48\n", "48 is neither 128 nor 64"},
		{"users", "[grant]\nmax_users = 0\n", "0 is not between 1 and 1000"},
		{"host bits", "[grant]\nnever = [\"192.0.2.7/24\"]\n", "has host bits set: 192.0.2.0/24, or 192.0.2.7?"},
		{"everybody", "[grant]\nalways = [\"0.0.0.0/0\"]\n", "x.toml:2: grant.always: 0.0.0.0/0 is too much of the Internet to be trusted: /8 is the widest"},
		{"everybody in IPv6", "[grant]\nalways = [\"192.0.2.1\", \"::/0\"]\n", "grant.always: ::/0 is too much of the Internet to be trusted: /7 is the widest"},
		{"everybody in halves", "[grant]\nalways = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n", "128.0.0.0/1 is too much"},
		{"two networks", "[grant]\nalways = [\"10.0.0.0/7\"]\n", "10.0.0.0/7 is too much"},
		{"all global addresses", "[grant]\nalways = [\"2000::/3\"]\n", "2000::/3 is too much"},
		{"everybody a proxy", "[watch]\ntrusted_proxies = [\"::/0\"]\n", "x.toml:2: watch.trusted_proxies: ::/0 is too much"},
		{"zone", "[grant]\nalways = [\"fe80::1%eth0\"]\n", "has a zone"},
		{"mode", "[gate]\nmode = \"on\"\n", "is none of"},
		{"redirect to itself", "[gate]\nmode = \"redirect\"\nrelay_port = 25\n", "x.toml:3: gate.relay_port: port 25 is one of gate.ports"},
		{"redirect to a mailbox", "[gate]\nmode = \"redirect\"\nrelay_port = 143\n", "is watched for logins"},
		{"high relay port", "[gate]\nmode = \"redirect\"\nrelay_port = 10025\n", "x.toml:3: gate.relay_port: any local user"},
		{"no mark", "[gate]\nmark = \"0\"\n", "is no mark"},
		{"long mark", "[gate]\nmark = \"0x100000000\"\n", "is no mark"},
		{"no table", "[gate]\nmode = \"sets\"\n", "gate.sets.table: \"\" is no family and table"},
		{"no family", "[gate]\nmode = \"sets\"\nsets = { table = \"filter\" }\n", "x.toml:3: gate.sets.table: \"filter\" is no family and table"},
		{"bridge", "[gate]\nmode = \"sets\"\nsets = { table = \"bridge filter\" }\n", "is no family and table"},
		{"no sets", "[gate]\nmode = \"sets\"\n[gate.sets]\ntable = \"inet f\"\nallow4 = \"\"\nallow6 = \"\"\n", "x.toml:5: gate.sets.allow4: neither"},
		{"no net6", "[grant]\nipv6_prefix = 64\n[gate]\nmode = \"sets\"\nsets = { table = \"inet f\", net6 = \"\" }\n", "gate.sets.net6: is needed"},
		{"always in sets", "[grant]\nalways = [\"192.0.2.0/24\", \"10.0.0.0/8\"]\n[gate]\nmode = \"sets\"\nsets = { table = \"inet f\" }\n", "x.toml:2: grant.always: 10.0.0.0/8 does not fit"},
		{"set's name", "[gate]\nsets = { table = \"inet f\", allow4 = \"a b\" }\n", "is no set's name"},
		{"unknown set", "[gate]\nsets = { allow5 = \"x\" }\n", "unknown key"},
		{"no servers", "[gate]\nmode = \"gateway\"\n", "gate.servers: mode \"gateway\" needs"},
		{"own sets", "[gate]\nmode = \"sets\"\nown = true\nsets = { table = \"inet f\" }\n", "x.toml:3: gate.own: "},
		{"negative brake", "[gate]\nmax_concurrent = -1\n", "-1 is not between 0 and 100000"},
		{"watched port closed", "[gate]\nports = [110]\n", "is watched for logins"},
		{"no gate port", "[gate]\nports = []\n", "names no port"},
		{"exit", "[gate]\non_exit = \"open\"\n", "is none of"},
		{"relative path", "[files]\nrelayhosts = \"relayhosts\"\n", "is no absolute path"},
		{"same file", "[files]\nrelayhosts = \"/x\"\nusers = \"/x\"\n", "x.toml:3: files.users: is the same file as files.relayhosts"},
		{"state as a list", "[files]\nusers = \"/x\"\n[state]\npath = \"/x\"\n", "x.toml:4: state.path: is the same file as files.users"},
		{"list as the state of the defaults", "[files]\nrelayhosts = \"/var/lib/relaygate/state.db\"\n", "x.toml: state.path: is the same file as files.relayhosts"},
		{"state as a socket", "[state]\npath = \"/x\"\n[control]\nsocket = \"/x\"\n", "x.toml:4: control.socket: is the same file as state.path"},
		{"dialect", "[files]\ndialect = \"cidr\"\n", "is none of"},
		{"no socket", "[control]\nsocket = \"\"\n", "is no absolute path"},
		{"long socket", "[control]\nsocket = \"/" + strings.Repeat("s", 200) + "\"\n", "socket's address"},
		{"metrics name", "[metrics]\nlisten = \"localhost:9125\"\n", "x.toml:2: metrics.listen: \"localhost:9125\" is no IP address and port"},
		{"metrics everywhere", "[metrics]\nlisten = \":9125\"\n", "is no IP address and port"},
		{"metrics without a port", "[metrics]\nlisten = \"127.0.0.1\"\n", "is no IP address and port"},
		{"metrics port 0", "[metrics]\nlisten = \"127.0.0.1:0\"\n", "is no IP address and port"},
		{"dotted key", "\ngate.mode = \"on\"\n", "x.toml:2: gate.mode: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("x.toml", []byte(tt.file))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "x.toml") {
				t.Errorf("error %q, want it to hold %q", err, tt.want)
			}
		})
	}
}

// The configuration is no file to write.
func TestConfigurationNamesItself(t *testing.T) {
	for _, text := range []string{"[files]\nrelayhosts = \"/x.toml\"\n", "[state]\npath = \"/x.toml\"\n"} {
		if _, err := Parse("/x.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), "/x.toml:2: ") || !strings.HasSuffix(err.Error(), "is the same file as the configuration") {
			t.Errorf("%s is read: %v", text, err)
		}
	}
}

// What is in the place of the file may have no end.
func TestLoadIsBounded(t *testing.T) {
	if c, err := Load("/dev/zero"); err == nil || c != nil {
		t.Errorf("Load = %+v, %v", c, err)
	}
	if _, ok := Salvage("/dev/zero"); ok {
		t.Error("Salvage says that it could be read")
	}
}

func TestWidestTrusted(t *testing.T) {
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("2001:db8::/32")}
	cfg, err := Parse("x.toml", []byte(`
[watch]
trusted_proxies = ["10.0.0.0/8", "fc00::/7", "2001:db8::/32"]
[grant]
never = ["0.0.0.0/0"]
always = ["10.0.0.0/8", "fc00::/7", "2001:db8::/32"]
`))
	if err != nil || !slices.Equal(cfg.Always, want) || !slices.Equal(cfg.TrustedProxies, want) {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// One file has one use, by whatever path it is named.
func TestOneFileByTwoPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, err := range []error{
		os.Mkdir("real", 0o700), os.Symlink("real", "folder"), os.WriteFile("real/old", nil, 0o600), os.Symlink("real/old", "link"),
	} {
		must(t, err)
	}
	for _, tt := range []struct {
		config, hosts, users string
		key                  string // that is refused; "" for none
	}{
		{"x.toml", "/y", "", ""},
		{"x.toml", dir + "/x.toml", "", "files.relayhosts"},
		{"./folder/../x.toml", dir + "/x.toml", "", "files.relayhosts"},
		{"folder/x.toml", dir + "/real/x.toml", "", "files.relayhosts"},
		{"link", dir + "/folder/old", "", "files.relayhosts"},
		{"x.toml", dir + "/folder/new", dir + "/real/new", "files.users"},
		{"x.toml", dir + "/folder/new", dir + "/real/other", ""},
		{"x.toml", dir + "/none/new", dir + "/none/new", "files.users"},
	} {
		_, err := Parse(tt.config, fmt.Appendf(nil, "[files]\nrelayhosts = %q\nusers = %q\n", tt.hosts, tt.users))
		if tt.key == "" && err != nil || tt.key != "" && (err == nil || !strings.Contains(err.Error(), tt.key+": is the same file as")) {
			t.Errorf("%s, %s, %s: got %v, want an error of %q", tt.config, tt.hosts, tt.users, err, tt.key)
		}
	}
}

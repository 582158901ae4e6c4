package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

const gatewayMode = `mode = "gateway"
servers = ["198.51.100.0/24", "2001:db8:25::/64"]
max_new_per_minute = 0`

// gatewayWorld is a world whose daemon runs on a router before the mail server.
type gatewayWorld struct {
	*world
	gateway *lab.Gateway
	ghosts  uint16 // conversations that were forged
}

// newGatewayWorld taps the interfaces of a router, as watch says.
func newGatewayWorld(t *testing.T, o lab.Options, watch string) *gatewayWorld {
	t.Helper()
	bpftest.RequireRoot(t)
	if !strings.Contains(watch, "afpacket") {
		bpftest.RequireLinux(t, 6, 6, "tcx")
	}
	g, err := lab.NewGateway()
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	if o.Mode == "" {
		o.Mode = gatewayMode
	}
	o.Config = "[watch]\n" + watch + "\n"
	return &gatewayWorld{world: populate(t, g.Network, g.Router, o), gateway: g}
}

const tcxLan = "tap = \"tcx\"\ninterfaces = [\"lan\"]"

func TestGatewayOpensForALogin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, watch, status string }{
		{"tcx", tcxLan, "tcx (inside interfaces lan)"},
		{"auto", `interfaces = ["lan"]`, "tcx (inside interfaces lan)"},
		{"two interfaces", `interfaces = ["lan", "dmz"]`, "tcx (inside interfaces lan, dmz)"},
		{"afpacket", "tap = \"afpacket\"\ninterfaces = [\"lan\"]", "afpacket (inside interfaces lan, blind to memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const lifetime = 4 * time.Second
			w := newGatewayWorld(t, lab.Options{Lifetime: lifetime}, tt.watch)
			four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
			for _, target := range w.Everybody() {
				must(t, target.Refused(t.Context()))
			}
			if _, ok, err := w.Client4.Login(t.Context(), lab.IMAPLogin(lab.Server4, "wrong")); ok || err != nil {
				t.Fatalf("a wrong password: %v, %v", ok, err)
			}
			admit(t, six)
			must(t, four.Refused(t.Context()))
			login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			settles(t, time.Second, open(t.Context(), four))
			must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
			must(t, w.Stranger.At(lab.Server6).Refused(t.Context()))
			if out := w.verb(t, "status"); !strings.Contains(out, tt.status) || strings.Contains(out, "Doubt") {
				t.Errorf("status does not tell %q, or of doubts:\n%s", tt.status, out)
			}
			settles(t, lifetime+time.Second, refused(t.Context(), four))
			settles(t, lifetime+time.Second, refused(t.Context(), six))
		})
	}
}

// What a host forwards is no login to its own servers: no socket sent it, and no
// socket table has it.
func TestForwardedLoginsOpenNothingOnAHost(t *testing.T) {
	for _, tap := range []string{"tcx", "afpacket"} {
		t.Run(tap, func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute, Mode: "mode = \"observe\""},
				fmt.Sprintf("tap = %q\ninterfaces = [\"lan\", \"to-client4\"]", tap))
			login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			settles(t, 2*time.Second, func() error {
				out := w.verb(t, "why", lab.Client4.String())
				doubt := map[string]string{
					"tcx":      "no socket of this host sent what the server says",
					"afpacket": "this host forwards IPv4",
				}[tap]
				if !strings.Contains(out, doubt) {
					return fmt.Errorf("why does not tell the doubt:\n%s", out)
				}
				return nil
			})
			w.grantedTo(t, 0)
		})
	}
}

// The whole way over tcx on a host without a gate for others: packets, dialogue,
// socket tables, gate.
func TestTCXOpensForALoginOnAHost(t *testing.T) {
	bpftest.RequireLinux(t, 6, 6, "tcx")
	w := newWorld(t, 30*time.Second, strings.Replace(tapInterfaces, "afpacket", "tcx", 1))
	w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
	w.stay(t, w.Client6, netip.AddrPortFrom(lab.Server6, lab.IMAPPort))
	settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	settles(t, 2*time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "status", "tcx (interfaces to-client4", "2 sessions open")())
}

func TestGatewayFollowsSessions(t *testing.T) {
	t.Parallel()
	newGatewayWorld(t, lab.Options{Lifetime: sessionLifetime}, tcxLan).holdsGrant(t)
}

// Packet sockets cannot tell whether a client is still there.
func TestGatewayWithPacketSocketsFollowsNoSession(t *testing.T) {
	t.Parallel()
	const lifetime = 4 * time.Second
	w := newGatewayWorld(t, lab.Options{Lifetime: lifetime}, "tap = \"afpacket\"\ninterfaces = [\"lan\"]")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	settles(t, lifetime+time.Second, refused(t.Context(), four))
	must(t, w.daemon.Stop())
	if log := w.daemon.Log(); !strings.Contains(log, "cannot follow sessions") {
		t.Errorf("the log does not tell it:\n%s", log)
	}
}

// An interface that is deleted and made anew is tapped again, and both is said.
func TestGatewayInterfaceComesBack(t *testing.T) {
	for _, tap := range []string{"tcx", "afpacket"} {
		t.Run(tap, func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: 30 * time.Second}, strings.Replace(tcxLan, "tcx", tap, 1))
			conn := session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
			bpftest.Do(t, w.gateway.Router, func() error { return deleteLink(lab.Lan) })
			tells := func(want string, problem bool) func() error {
				return func() error {
					out := w.verb(t, "status")
					if strings.Contains(out, want) != problem {
						return fmt.Errorf("status does not tell the right thing of %q:\n%s", want, out)
					}
					return nil
				}
			}
			settles(t, 3*time.Second, tells("interface lan is gone", true))
			settles(t, 3*time.Second, tells("0 sessions open", true)) // with the interface
			_ = conn.Close()
			must(t, w.gateway.JoinServer())
			settles(t, 3*time.Second, tells("interface lan is gone", false))
			// What is in the block of the ring that the change lies in is not believed.
			settles(t, 5*time.Second, func() error {
				login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
				return open(t.Context(), w.Client6.At(lab.Server6))()
			})
			must(t, w.daemon.Stop())
			log := w.daemon.Log()
			if !strings.Contains(log, "interface lan is gone") || !strings.Contains(log, "interface lan is back") {
				t.Errorf("the log does not tell of the interface:\n%s", log)
			}
		})
	}
}

// One that is to come keeps nobody out who is behind another; where none is there, their
// names are wrong.
func TestGatewayInterfaceIsToCome(t *testing.T) {
	for _, tap := range []string{"tcx", "afpacket"} {
		t.Run(tap, func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: 30 * time.Second}, fmt.Sprintf("tap = %q\ninterfaces = [\"lan\", \"tunnel\"]", tap))
			must(t, w.says(t, "status", "interface tunnel is gone")())
			admit(t, w.Client4.At(lab.Server4))
			bpftest.Do(t, w.gateway.Router, func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}, PeerName: "peer"})
			})
			settles(t, 3*time.Second, func() error {
				if out := w.verb(t, "status"); strings.Contains(out, "tunnel is gone") {
					return errors.New(out)
				}
				return nil
			})
			must(t, w.daemon.Stop())
			w.opts.Config = fmt.Sprintf("[watch]\ntap = %q\ninterfaces = [\"nowhere\"]\n", tap)
			startsNot(t, w.home, w.opts, "interface nowhere")
		})
	}
}

func TestGatewayAgentRestarts(t *testing.T) {
	w := newGatewayWorld(t, lab.Options{Lifetime: 30 * time.Second}, tcxLan)
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	w.saved(t)
	must(t, w.daemon.Kill())
	must(t, open(t.Context(), four)())
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	must(t, six.Refused(t.Context()))

	w.start(t)
	must(t, open(t.Context(), four)())
	must(t, six.Refused(t.Context()))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	settles(t, time.Second, open(t.Context(), six))

	// A second one on the same gate is refused; one that only observes is not.
	second := w.opts
	second.Dir = t.TempDir()
	if d, err := lab.StartDaemon(t.Context(), w.home, second); err == nil {
		must(t, d.Stop())
		t.Error("a second daemon runs on the same gate")
	}
	must(t, open(t.Context(), four)())
	login(t, w.Stranger, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Stranger.At(lab.Server4)))
}

func TestGatewayReload(t *testing.T) {
	w := newGatewayWorld(t, lab.Options{Lifetime: 30 * time.Second}, tcxLan)
	reload := func(gate, want string) {
		t.Helper()
		must(t, w.daemon.Reload("[watch]\n"+tcxLan+"\n[gate]\nmax_new_per_minute = 0\n"+gate))
		settles(t, 3*time.Second, w.says(t, "status", want))
	}
	reload("mode = \"gateway\"\nservers = [\"2001:db8:25::25\"]\n", "port 25 of 2001:db8:25::25 behind")
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
	w.grantedTo(t, 1)
	reload("mode = \"filter\"\n", "gate.mode to or from gateway can be changed by a restart alone")
	reload("mode = \"gateway\"\nservers = [\"198.51.100.0/24\"]\n", "port 25 of 198.51.100.0/24 behind")
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
}

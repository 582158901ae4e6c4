package doctor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"relaygate/bpf"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/nft"
)

// What to do where a program only hands connections on, as docker-proxy does.
const (
	intoContainer = "; if that leads to a mail server in a container, let it use the host's network, or name its network namespace in watch.trusted_netns"
	handedOn      = "who comes by it has this host's address for the mail server, and is in no list of members: let a mail server in a container use the host's network"
	aroundGate    = "what it hands on to a mail server behind this host is not forwarded, and passes the gate: close the port by rules of your own, or turn Docker's userland-proxy off (dockerd itself hands on nothing)"
)

// listeners says who listens on the ports that are watched and guarded.
func listeners(cfg *config.Config) []Finding {
	watched := slices.Sorted(maps.Keys(cfg.Services))
	ports := slices.Concat(watched, cfg.Gate.Ports)
	if cfg.Gate.Mode == nft.Redirect {
		ports = append(ports, cfg.Gate.RelayPort)
	}
	byPort, err := listening(ports, cfg)
	if err != nil {
		return []Finding{found("listeners", len(cfg.TrustedNetns) > 0, "", err, "mail servers there are not believed: correct watch.trusted_netns")}
	}
	var list []Finding
	for _, port := range ports {
		on := byPort[port]
		f := Finding{Subject: fmt.Sprintf("port %d", port), State: OK, Words: strings.Join(on.holders, ", ")}
		isRelay := cfg.Gate.Mode == nft.Redirect && port == cfg.Gate.RelayPort
		switch {
		case len(on.doubts) > 0 && slices.Contains(watched, port):
			f.State, f.Then = Advice, "logins there are not believed: "
			if on.believed {
				f.Then = "some logins there are not believed: "
			}
			f.Then += strings.Join(on.doubts, "; ")
			if on.forwards && !on.believed {
				f.Then += intoContainer
			}
		case on.forwards:
			f.State, f.Then = Advice, handedOn
		case len(on.holders) > 0:
		case isRelay:
			f.State, f.Needed, f.Words = Missing, true, "nobody listens on the relay port"
			f.Then = "granted addresses would be refused: let the mail server listen there"
		default:
			f.State, f.Words = Advice, "nobody listens here"
			f.Then = "nothing to do if the mail server does not offer it"
		}
		list = append(list, f)
		if isRelay && port >= unprivileged() {
			list = append(list, Finding{
				Subject: f.Subject, State: Advice, Words: "any user of this host may listen there while the mail server does not",
				Then: "let net.ipv4.ip_unprivileged_port_start be above it, and choose a gate.relay_port below 1024",
			})
		}
	}
	return list
}

// around looks for who listens on a gateway itself, on the ports that it guards. At the
// loopback address, as a mail server for this host's own does, nobody else gets.
func around(cfg *config.Config) (list []Finding) {
	byPort, err := listening(cfg.Gate.Ports, cfg)
	if err != nil {
		return []Finding{found("listeners", false, "", err, "")}
	}
	for _, port := range cfg.Gate.Ports {
		if on := byPort[port]; on.outside {
			list = append(list, Finding{
				Subject: fmt.Sprintf("port %d", port), State: Advice, Words: strings.Join(on.holders, ", "), Then: aroundGate,
			})
		}
	}
	return list
}

// unprivileged is the first port on which any user may listen (ip(7)).
func unprivileged() uint16 {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	port, wrong := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil || wrong != nil {
		return 1024
	}
	return uint16(port)
}

// listened is who holds the listeners on a port, and why one is not believed.
type listened struct {
	holders, doubts             []string
	believed, forwards, outside bool // one of them is, only hands connections on, can be reached from elsewhere
}

// listening looks at the listeners here and in trusted network namespaces, by port.
func listening(ports []uint16, cfg *config.Config) (_ map[uint16]listened, err error) {
	var trusted []*bpf.Netns
	defer func() {
		for _, ns := range trusted {
			err = errors.Join(err, ns.Close())
		}
	}()
	for _, path := range append([]string{bpf.OwnNetns}, cfg.TrustedNetns...) {
		ns, err := bpf.OpenNetns(path)
		if err != nil {
			return nil, err
		}
		trusted = append(trusted, ns)
	}
	tables, err := sockdiag.New(sockdiag.Options{Ports: ports, Netns: trusted, Owners: cfg.Owners})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tables.Close() }() // it was only looked at
	list, _, err := tables.Listeners()
	if err != nil && len(list) == 0 {
		return nil, err
	}
	byPort := make(map[uint16]listened)
	for i := range list {
		l := &list[i]
		on := byPort[l.Local.Port()]
		on.add(l, tables, cfg.Owners)
		byPort[l.Local.Port()] = on
	}
	return byPort, nil
}

// add notes one listener.
func (on *listened) add(l *sockdiag.Listener, tables *sockdiag.Tables, owners []uint32) {
	once := func(list []string, s string) []string {
		if slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	ok, reason := tables.Check(l.Local, l.Netns)
	who := fmt.Sprintf("a process of uid %d", l.UID)
	switch {
	case len(l.Processes) > 0:
		who = l.Processes[0].String()
	case slices.Contains(owners, l.UID) && os.Geteuid() != 0:
		who, ok = "somebody who cannot be seen by this user", true
	}
	on.holders = once(on.holders, who)
	if !slices.Contains(owners, l.UID) {
		reason += ": if the mail server runs as that user, name it in watch.owners"
	}
	on.believed = on.believed || ok
	on.outside = on.outside || !l.Local.Addr().IsLoopback()
	on.forwards = on.forwards || slices.ContainsFunc(l.Processes, sockdiag.Process.Forwards)
	if !ok {
		on.doubts = once(on.doubts, reason)
	}
}

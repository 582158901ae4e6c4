package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
	"relaygate/bpf"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/story"
	"relaygate/nft"
)

// listeners says who listens on the ports that are watched and guarded.
func listeners(cfg *config.Config) []Finding {
	watched := slices.Sorted(maps.Keys(cfg.Services))
	ports := slices.Concat(watched, cfg.Gate.Ports)
	if cfg.Gate.Mode == nft.Redirect {
		ports = append(ports, cfg.Gate.RelayPort)
	}
	byPort, err := listening(ports, cfg.Owners)
	if err != nil {
		return []Finding{found("listeners", false, "", err, "")}
	}
	var list []Finding
	for _, port := range ports {
		on := byPort[port]
		f := Finding{Subject: fmt.Sprintf("port %d", port), State: OK, Words: strings.Join(on.holders, ", ")}
		isRelay := cfg.Gate.Mode == nft.Redirect && port == cfg.Gate.RelayPort
		switch {
		case len(on.doubts) > 0 && slices.Contains(watched, port):
			f.State, f.Then = Advice, "logins there are not believed: "+strings.Join(on.doubts, "; ")
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
type listened struct{ holders, doubts []string }

// listening looks at the listeners, by port.
func listening(ports []uint16, owners []uint32) (map[uint16]listened, error) {
	own, err := bpf.OpenNetns(bpf.OwnNetns)
	if err != nil {
		return nil, err
	}
	defer func() { _ = own.Close() }() // it was only looked at
	tables, err := sockdiag.New(sockdiag.Options{Ports: ports, Netns: []*bpf.Netns{own}, Owners: owners})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tables.Close() }() // likewise
	list, _, err := tables.Listeners()
	if err != nil && len(list) == 0 {
		return nil, err
	}
	byPort := make(map[uint16]listened)
	add := func(list []string, s string) []string {
		if slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	for _, l := range list {
		on := byPort[l.Local.Port()]
		ok, reason := tables.Check(l.Local, l.Netns)
		who := fmt.Sprintf("a process of uid %d", l.UID)
		switch {
		case len(l.Processes) > 0:
			who = l.Processes[0].String()
		case slices.Contains(owners, l.UID) && os.Geteuid() != 0:
			who, ok = "somebody who cannot be seen by this user", true
		}
		on.holders = add(on.holders, who)
		if !slices.Contains(owners, l.UID) {
			reason += ": if the mail server runs as that user, name it in watch.owners"
		}
		if !ok {
			on.doubts = add(on.doubts, reason)
		}
		byPort[l.Local.Port()] = on
	}
	return byPort, nil
}

// secondLock: while the table is gone, and before the daemon has started, only
// the mail server's own rule keeps strangers out.
func secondLock(cfg *config.Config) []Finding {
	then := map[nft.Mode]string{
		nft.Filter:   "let the mail server relay for the addresses in files.relayhosts alone",
		nft.Redirect: "let the relay port's listener check files.relayhosts too",
		nft.Mark:     "let the mail server's listener ask for the mark, or check files.relayhosts",
		nft.UserSets: "let your rules refuse what is in no set, and the mail server check files.relayhosts",
		nft.Gateway:  "let the mail servers behind this host relay for what they know alone",
	}[cfg.Gate.Mode]
	if then == "" {
		return nil // observe closes nothing
	}
	f := Finding{
		Subject: "second lock", State: Advice, Then: then,
		Words: "while the table is gone (before the start, after a flush) port " + config.PortWords(cfg.Gate.Ports) + " is what it was without relaygate",
	}
	if cfg.Relayhosts != "" {
		f.Words += "; " + cfg.Relayhosts + " is written for the mail server"
	} else {
		f.Then += " (files.relayhosts is empty: no file is written)"
	}
	return []Finding{f}
}

// foreign tells of a list for mail servers that another program writes.
func foreign(path string) []Finding {
	clients, err := relayhosts.Named(path)
	if err != nil || len(clients) == 0 {
		return nil
	}
	return []Finding{{
		Subject: "relayhosts", State: Advice,
		Words: fmt.Sprintf("%s names %s: another program wrote that, as files.relayhosts is empty", path, authz.Count(len(clients), "client")),
		Then:  "relaygate why tells what is known of each; relaygate(8) how to move in, so that only proved logins are there",
	}}
}

// files looks at the places that the daemon writes to.
func files(cfg *config.Config) []Finding {
	var list []Finding
	if cfg.Relayhosts == "" {
		list = foreign(story.Usual)
	}
	for _, file := range []struct{ subject, path string }{
		{"relayhosts", cfg.Relayhosts}, {"users file", cfg.UsersFile},
	} {
		if file.path == "" {
			continue
		}
		folder := filepath.Dir(file.path)
		info, err := os.Stat(folder)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no folder", folder)
		}
		if err == nil && info.Mode()&0o022 != 0 && info.Mode()&os.ModeSticky == 0 {
			err = fmt.Errorf("%s can be written by other users", folder)
		}
		if info, absent := os.Stat(file.path); err == nil && absent == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", file.path)
		}
		if err == nil {
			err = relayhosts.Others(file.path)
		}
		list = append(list, found(file.subject, true, file.path, err, "whoever may write there can let anybody relay; a folder of root's is needed"))
	}
	return list
}

// places looks where the daemon makes what it needs to start.
func places(cfg *config.Config) []Finding {
	var list []Finding
	for _, place := range []struct{ subject, path, key string }{
		{"state", cfg.StatePath, "state.path"}, {"control socket", cfg.Socket, "control.socket"},
	} {
		folder := filepath.Dir(place.path)
		for folder != filepath.Dir(folder) && errors.Is(unix.Access(folder+"/.", unix.F_OK), unix.ENOENT) {
			folder = filepath.Dir(folder) // which is made
		}
		err := unix.Access(folder+"/.", unix.W_OK)
		if err != nil {
			err = &os.PathError{Op: "write to", Path: folder, Err: err}
		}
		list = append(list, found(place.subject, true, place.path, err, "nothing starts without: let "+place.key+" be where root can write"))
	}
	return list
}

// daemon tells what the running daemon says of itself.
func daemon(ctx context.Context, p Patient) []Finding {
	s, err := p.Status(ctx)
	if err != nil {
		f := Finding{Subject: "daemon", State: Advice, Words: err.Error(), Then: "start it to see which TLS servers it reads"}
		if errors.Is(err, os.ErrPermission) {
			f.State, f.Then = Unseen, "run doctor as root"
		}
		return []Finding{f}
	}
	list := []Finding{{
		Subject: "daemon", State: OK,
		Words: fmt.Sprintf("runs (%s), taps by %s, gate mode %s, %s", s.Version, s.Tap.Kind, s.Gate.Mode, authz.Count(s.Grants, "grant")),
	}}
	if s.Gate.Mode != p.Config.Gate.Mode.String() {
		list = append(list, Finding{
			Subject: "daemon", State: Advice, Words: "runs with another configuration than the one looked at here",
			Then: "name that with --config, or let the daemon read this one",
		})
	}
	list = append(list, readTLS(&s.TLS)...)
	for _, problem := range s.Problems {
		if problem != s.TLS.Lacks { // told already
			list = append(list, Finding{Subject: "daemon", State: Advice, Words: problem})
		}
	}
	return list
}

// readTLS tells which servers' TLS is read.
func readTLS(t *control.TLS) []Finding {
	var list []Finding
	for i := range t.Servers {
		server := &t.Servers[i]
		if !server.TLS || !server.Seen {
			continue
		}
		f := Finding{Subject: "TLS", State: OK, Words: authz.Quote(string(server.Words))}
		if others := sharers(server); len(others) > 0 {
			f.Words += "; each call of a library costs a trap, also those of " + strings.Join(others, ", ")
		}
		list = append(list, f)
	}
	if t.Lacks != "" {
		list = append(list, Finding{
			Subject: "TLS", State: Advice, Words: t.Lacks,
			Then: "a login that is not seen opens nothing: grant by hand, or end TLS in a program with OpenSSL or GnuTLS as a shared library, like HAProxy or stunnel",
		})
	}
	return list
}

// sharers names the programs that use a server's TLS libraries too.
func sharers(server *control.TLSServer) []string {
	var names []string
	for _, l := range server.Libraries {
		for _, other := range l.Others {
			if name := authz.Quote(string(other)); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/story"
	"relaygate/nft"
)

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

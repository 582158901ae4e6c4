package livetap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// Trust is whose listeners are believed: those in the daemon's own network
// namespace and the configured ones, of an allowed owner, and of no program
// that only hands connections on.
type Trust struct {
	netns  []*bpf.Netns      // the own one first
	named  map[string]uint64 // the inodes of the configured ones, by path; 0 of one that was not there
	tables *sockdiag.Tables
	// inside are the mail servers behind this host; nil if it is no gateway.
	inside atomic.Pointer[[]netip.Prefix]
	// unsure: the tap does not show whether this host sent what leaves, or another for whom
	// it forwards.
	unsure bool
	// tap is the one that may miss what clients send, if it may.
	tap *wireTap
	// firewall says whether there is another way to the mail server than the tap sees, which
	// is on interfaces. On a host such a tap shows what the sockets of its own namespace say
	// alone. Any other has none.
	firewall *nft.Translations
	// stacked: an interface inside is made of others, by which a flow table sends itself.
	stacked atomic.Bool
}

// OpenTrust opens the configured namespaces and their socket tables.
func OpenTrust(cfg *config.Config) (_ *Trust, err error) {
	t := &Trust{named: make(map[string]uint64)}
	if cfg.Inside() {
		t.inside.Store(&cfg.Gate.Servers)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	for _, path := range append([]string{bpf.OwnNetns}, cfg.TrustedNetns...) {
		ns, err := bpf.OpenNetns(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // its container has not started: the gate need not wait
			t.named[path] = 0
			continue
		case err != nil:
			return nil, fmt.Errorf("trust %s: %w", path, err)
		}
		if path != bpf.OwnNetns {
			t.named[path] = ns.ID()
		}
		// One named twice, or the own one, is held once.
		if slices.ContainsFunc(t.netns, func(other *bpf.Netns) bool { return other.ID() == ns.ID() }) {
			if err := ns.Close(); err != nil {
				return nil, fmt.Errorf("close network namespace %s: %w", path, err)
			}
			continue
		}
		t.netns = append(t.netns, ns)
	}
	t.tables, err = sockdiag.New(sockdiag.Options{Ports: watchedPorts(cfg), Netns: t.netns, Owners: cfg.Owners})
	if err != nil {
		return nil, fmt.Errorf("read the socket tables: %w", err)
	}
	return t, nil
}

func watchedPorts(cfg *config.Config) []uint16 { return slices.Collect(maps.Keys(cfg.Services)) }

// Run follows the socket tables until ctx is done.
func (t *Trust) Run(ctx context.Context) error { return t.tables.Run(ctx) }

// Alive lists the open sessions that the socket tables show.
func (t *Trust) Alive() ([]sockdiag.Session, error) { return t.tables.Alive() }

// Confirm is asked before a login is believed. A connection of a known namespace
// was announced by the kernel with its socket and its listener; on a gateway the tap saw
// that the server's segments came in from where it is; any other must be in the socket
// tables of the own namespace.
func (t *Trust) Confirm(c authz.Conn, o engine.Opening) (belief authz.Belief, reason string) {
	switch inside := t.inside.Load(); {
	case inside != nil && behind(*inside, c.Server.Addr()):
		return authz.Believed, ""
	case inside != nil:
		return authz.Undecided, "the server is none of gate.servers"
	case c.Netns != 0:
		return t.tables.CheckListener(c.Server, c.Netns, o.Listener)
	}
	if ok, reason := t.Whole(c); !ok {
		return authz.Undecided, reason
	}
	return t.tables.CheckConnection(c, o.Time)
}

// Whole is asked with each login: whether the tap has seen who said what until then.
func (t *Trust) Whole(c authz.Conn) (ok bool, reason string) {
	reason = t.refused(c.Server.Addr().Is6())
	if reason == "" && t.tap != nil {
		reason = t.tap.doubt(c.Cookie)
	}
	return reason == "", reason
}

// refused says why nobody is believed over IPv4, or IPv6, by a tap on interfaces; "" if that
// is not so.
func (t *Trust) refused(six bool) string {
	switch {
	case t.unsure && hostinfo.Forwards(six):
		return fmt.Sprintf("this host forwards %s, and this tap does not show whose packets leave: a container could speak as its mail server", family(six))
	case t.firewall == nil:
		return ""
	case t.inside.Load() != nil:
		return t.offloaded()
	}
	return t.translated(six)
}

// onInterfaces is told that the tap is on some.
func (t *Trust) onInterfaces() (err error) {
	t.firewall, err = nft.OpenTranslations(0)
	return err
}

// translated says why nobody is believed as the firewall may change the address or port of
// what clients send, "" if it does not. The tap sees it before: a client could have the
// server read other words than those that it shows there.
func (t *Trust) translated(six bool) string {
	switch by, err := t.firewall.Of(six); {
	case err != nil:
		return fmt.Sprintf("whether the firewall translates %s is not known: %v", family(six), err)
	case by != "":
		return fmt.Sprintf("the firewall translates %s (table %s), and this tap does not show what comes to the mail server by another address or port", family(six), by)
	}
	return ""
}

// offloaded says why nobody is believed as the firewall may forward past the interfaces that
// are tapped, "" if it does not. A client has some of its segments forwarded so, and others
// not, as it likes.
func (t *Trust) offloaded() string {
	if !t.stacked.Load() {
		return ""
	}
	switch by, err := t.firewall.Offloads(); {
	case err != nil:
		return fmt.Sprintf("whether the firewall has a flow table is not known: %v", err)
	case by != "":
		return fmt.Sprintf("the firewall has a flow table (table %s), which forwards past an interface that is made of others, as a bridge or VLAN is", by)
	}
	return ""
}

func family(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

// problems names what is not believed by this tap. A namespace that was made anew, as a
// container's is, can be entered with capabilities of the start alone.
func (t *Trust) problems() (list []string) {
	if _, _, err := t.tables.Listeners(); err != nil && t.inside.Load() == nil {
		list = append(list, "no login is believed, as it is not known who listens: "+err.Error())
	}
	for _, listener := range t.tables.Unheld() {
		list = append(list, fmt.Sprintf("no login at %v is believed, as no process is seen that listens there: relaygate lacks CAP_SYS_PTRACE, or the processes of the host are hidden from it, as in a container", listener))
	}
	if t.tap != nil {
		if words := t.tap.unseen(); words != "" {
			list = append(list, "no login is believed: "+reasonUnseen+words)
		}
	}
	for _, six := range []bool{false, true} {
		if words := t.refused(six); words != "" {
			list = append(list, fmt.Sprintf("logins over %s are not believed: %s", family(six), words))
		}
	}
	if t.firewall != nil && t.inside.Load() == nil && len(t.named) > 0 {
		list = append(list, "mail servers in trusted network namespaces are not believed: this tap does not show whose words this host forwards")
	}
	for _, path := range slices.Sorted(maps.Keys(t.named)) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Ino != t.named[path] {
			list = append(list, "the trusted network namespace "+path+" is not one of the start: mail servers there are not believed until relaygate is restarted")
		}
	}
	return list
}

// behind says whether a server is one of the mail servers behind this host.
func behind(servers []netip.Prefix, server netip.Addr) bool {
	return slices.ContainsFunc(servers, func(p netip.Prefix) bool { return p.Contains(server) })
}

// Close gives up the namespaces and the tables.
func (t *Trust) Close() error {
	var errs []error
	if t.tables != nil {
		errs = append(errs, t.tables.Close())
	}
	if t.firewall != nil {
		errs = append(errs, t.firewall.Close())
	}
	for _, ns := range t.netns {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}

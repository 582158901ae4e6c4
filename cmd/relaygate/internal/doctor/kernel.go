package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/nft"
)

// needsCgroups: the configuration knows no other way to see connections.
func needsCgroups(cfg *config.Config) bool {
	return cfg.Tap == config.TapCgroup || cfg.Tap == config.TapAuto && len(cfg.Interfaces) == 0
}

// needsTCX is the same of programs on interfaces.
func needsTCX(cfg *config.Config) bool { return cfg.Tap == config.TapTCX }

// needsPackets is the same of the packet socket.
func needsPackets(cfg *config.Config) bool { return cfg.Tap == config.TapAFPacket }

// kernel asks for each feature that the tap needs.
func kernel(cfg *config.Config) []Finding {
	var name unix.Utsname
	release := "unknown"
	if unix.Uname(&name) == nil {
		release = unix.ByteSliceToString(name.Release[:])
	}
	list := []Finding{{Subject: "kernel", State: OK, Words: "Linux " + release}}
	add := func(features []bpf.Feature, needed bool, then string) {
		for _, f := range features {
			subject := "kernel: " + f.Name
			if i := slices.IndexFunc(list, func(told Finding) bool { return told.Subject == subject }); i >= 0 {
				list[i].Needed = list[i].Needed || needed
				continue
			}
			list = append(list, found(subject, needed, "is there", f.Probe(), then))
		}
	}
	if !cfg.Inside() {
		add(bpf.Features(), needsCgroups(cfg), "without it only taps on named interfaces see anything: set watch.tap and watch.interfaces")
	}
	if len(cfg.Interfaces) > 0 {
		then := "without it only a packet socket sees anything on interfaces"
		if cfg.Inside() {
			then += ", and no session is followed"
		}
		add(bpf.WireFeatures(), needsTCX(cfg), then)
	}
	list = append(list, lent(cfg, bpf.HaveLent))
	if cfg.TLS && !cfg.Inside() {
		list = append(list, found("kernel: uprobes", false, "are there", bpf.HaveUprobes(),
			"logins in TLS are not read: grants come from clear text and by hand alone"))
		list = append(list, found("kernel: uprobe sessions", false, "are there", bpf.HaveUprobeSession(),
			"each call of a TLS library that mail servers use costs two traps, also where one would do, and a program with coroutines that wait within one, as Crystal's do, is ended by the kernel: if there is one with such a library, set watch.tls to off"))
		list = append(list, found("processes", false, "have the numbers that the kernel knows them by", bpf.InitialPIDs(),
			"logins in TLS are not read: run relaygate on the host, or with the host's PID namespace"))
	}
	return list
}

// lent says whether it is seen that a client in this kernel, as in a container, can still
// change what it sent; have asks that of programs on cgroups.
func lent(cfg *config.Config, have func() error) Finding {
	var err error
	switch {
	case needsPackets(cfg):
		err = errors.New("is not seen by a packet socket")
	case !needsTCX(cfg):
		err = have()
	}
	return found("lent memory", false, "is seen: what a client in this kernel sends and can still change", err,
		"in clear text whoever runs programs in a container of this host logs in without a password: name what is routed to containers in grant.never (relaygate.toml(5))")
}

// capability is one of capabilities(7), with what is lost without it.
type capability struct {
	name   string
	number int
	loss   string
	needed func(*config.Config) bool
}

func needsPrograms(c *config.Config) bool { return needsCgroups(c) || needsTCX(c) }

func always(*config.Config) bool { return true }
func never(*config.Config) bool  { return false }

var wanted = []capability{
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "neither the gate nor the tap can be built", always},
	{"CAP_BPF", unix.CAP_BPF, "the kernel tap cannot be loaded", needsPrograms},
	{"CAP_PERFMON", unix.CAP_PERFMON, "the kernel tap cannot be loaded, and logins in TLS are not read", func(c *config.Config) bool { return needsPrograms(c) || c.TLS && !c.Inside() }},
	{"CAP_CHECKPOINT_RESTORE", unix.CAP_CHECKPOINT_RESTORE, "TLS libraries that no path leads to, as after an upgrade, are not read", never},
	{"CAP_NET_RAW", unix.CAP_NET_RAW, "the packet socket cannot be opened", needsPackets},
	{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, "trusted network namespaces cannot be entered", func(c *config.Config) bool { return len(c.TrustedNetns) > 0 }},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, "whose listeners they are cannot be told: nothing is believed", func(c *config.Config) bool { return !c.Inside() }},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH, "files of other users' processes cannot be read", never},
	{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE, "files in other users' folders cannot be replaced", never},
	{"CAP_CHOWN", unix.CAP_CHOWN, "a replaced file does not keep its owner", never},
	{"CAP_FOWNER", unix.CAP_FOWNER, "a replaced file does not keep its mode", never},
}

// capabilities are those of this process: a daemon that the same user starts
// has them too.
func capabilities(cfg *config.Config) []Finding {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	if err := unix.Capget(&header, &held[0]); err != nil {
		return []Finding{{Subject: "capabilities", State: Unseen, Words: err.Error()}}
	}
	if unix.Geteuid() != 0 && held[0].Effective|held[1].Effective == 0 {
		return []Finding{{
			Subject: "capabilities", State: Unseen, Words: "this user has none, so that what the daemon would have cannot be seen",
			Then: "run doctor as root",
		}}
	}
	var missing []Finding
	for _, c := range wanted {
		if held[c.number/32].Effective&(1<<(c.number%32)) == 0 {
			missing = append(missing, Finding{
				Subject: "capability " + c.name, State: Missing, Needed: c.needed(cfg), Words: "is not held", Then: c.loss,
			})
		}
	}
	if len(missing) == 0 {
		return []Finding{{Subject: "capabilities", State: OK, Words: "all that the start needs are held"}}
	}
	return missing
}

func cgroups(cfg *config.Config) Finding {
	path, err := bpf.RootCgroup()
	then := "the tap needs cgroup v2: mount it, or tap interfaces (watch.tap, watch.interfaces)"
	switch {
	case !needsCgroups(cfg):
		then = "connections are seen on watch.interfaces instead, and logins in TLS are not read"
	case errors.Is(err, bpf.ErrPartOfCgroups):
		then = "the mail server's connections are not seen from here: run relaygate on the host, or with the host's cgroup namespace, or tap this container's interfaces (watch.interfaces)"
	}
	return found("cgroups", needsCgroups(cfg), "the whole tree is at "+path, err, then)
}

// firewall only lists: a table that is made to try would wake a daemon that
// watches.
func firewall(cfg *config.Config) Finding {
	names, err := tables()
	good := "works; no table is there yet"
	if len(names) > 0 {
		good = "works; tables: " + strings.Join(names, ", ")
	}
	return found("nftables", cfg.Gate.Mode != nft.Observe, good, err, "no gate can be built: load the module nf_tables")
}

func tables() (names []string, err error) {
	const most = 16
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	list, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for i, t := range list {
		if i == most {
			return append(names, fmt.Sprintf("and %d more", len(list)-most)), nil
		}
		names = append(names, cmp.Or(families[t.Family], fmt.Sprint(t.Family))+" "+t.Name)
	}
	return names, nil
}

// families are the names of nft(8).
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyBridge: "bridge",
}

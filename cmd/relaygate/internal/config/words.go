package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/nft"
)

// Words tells what the configuration means, one sentence or two per line.
func (c *Config) Words() []string {
	lines := []string{c.watchWords()}
	if words := c.tapWords(); words != "" {
		lines = append(lines, words)
	}
	lines = append(lines, c.grantWords()...)
	lines = append(lines, c.Gate.Words())
	if c.Gate.Mode != nft.Observe {
		lines = append(lines, c.Gate.brakeWords(), c.Gate.exitWords())
	}
	if c.Relayhosts != "" {
		lines = append(lines, fmt.Sprintf("The granted addresses are written to %s (dialect %s).", c.Relayhosts, c.Dialect))
	}
	if c.UsersFile != "" {
		lines = append(lines, fmt.Sprintf("Their users are written to %s.", c.UsersFile))
	}
	lines = append(lines, fmt.Sprintf("State is kept in %s, evidence for %s; the control socket is %s.", c.StatePath, span(c.Retain), c.Socket))
	if c.Metrics != "" {
		lines = append(lines, fmt.Sprintf("Prometheus may read http://%s/metrics.", c.Metrics))
	}
	return lines
}

func (c *Config) watchWords() string {
	words := fmt.Sprintf("Watches POP3 on %s and IMAP on %s", PortWords(c.Ports(authz.POP3)), PortWords(c.Ports(authz.IMAP)))
	if !c.TLS || c.Inside() {
		words += ", in clear text alone"
	}
	if len(c.TrustedNetns) > 0 {
		words += ", also in " + strings.Join(c.TrustedNetns, ", ")
	}
	return words + "."
}

// tapWords tells where connections are seen, "" where that is everywhere.
func (c *Config) tapWords() string {
	on := strings.Join(c.Interfaces, ", ")
	if on == "" {
		return ""
	}
	where := "Connections are seen on the interfaces " + on
	if c.Inside() {
		where = fmt.Sprintf("The mail servers are %s, behind this host on its interfaces %s", prefixWords(c.Gate.Servers), on)
	}
	switch {
	case c.Tap == TapTCX:
		return where + ": by programs there (tcx)."
	case c.Tap == TapAFPacket && c.Inside():
		return where + ": by a packet socket there, so that no session is followed."
	case c.Tap == TapAFPacket:
		return where + ": by a packet socket there."
	case c.Inside():
		return where + ": by programs there (tcx) or, where the kernel is too old, by a packet socket, so that no session is followed."
	}
	return where + " where cgroups cannot be used: by programs there (tcx) or, where the kernel is too old, by a packet socket."
}

func (c *Config) grantWords() []string {
	lines := []string{fmt.Sprintf("A login opens its address for %s.", span(c.Lifetime))}
	if c.FollowSessions {
		lines[0] = fmt.Sprintf("A login opens its address for as long as its session lasts (%s at most) and %s more.", span(c.MaxSession), span(c.Lifetime))
	}
	if c.IPv6Prefix != 128 {
		lines[0] += fmt.Sprintf(" An IPv6 login opens its whole /%d.", c.IPv6Prefix)
	}
	lines = append(lines, fmt.Sprintf("Users per address: at most %d, above which it counts as shared and is not granted; addresses per user: at most %d.", c.MaxUsers, c.MaxAddresses))
	for _, rule := range []struct {
		words    string
		prefixes []netip.Prefix
	}{
		{"Always open: %s.", c.Always},
		{"Never granted: %s, besides the built-in rules.", c.Never},
		{"Proxies, which may announce clients and are never granted: %s.", c.TrustedProxies},
	} {
		if len(rule.prefixes) > 0 {
			lines = append(lines, fmt.Sprintf(rule.words, prefixWords(rule.prefixes)))
		}
	}
	return lines
}

// Words tells what the gate does to whom: it is a sentence.
func (g *Gate) Words() string {
	ports := "port " + PortWords(g.Ports)
	if len(g.Ports) > 1 {
		ports = "ports " + PortWords(g.Ports)
	}
	switch g.Mode {
	case nft.Filter:
		return fmt.Sprintf("The gate filters %s: only granted addresses may connect.", ports)
	case nft.Redirect:
		return fmt.Sprintf("The gate redirects %s: granted addresses reach port %d, everybody else what listens there.", ports, g.RelayPort)
	case nft.Mark:
		return fmt.Sprintf("The gate marks %s: packets of granted addresses carry the mark %#08x, and nothing is closed.", ports, g.Mark)
	case nft.UserSets:
		return fmt.Sprintf("The gate keeps the granted addresses in the sets of your table %s %s; your rules decide.", g.Sets.Family, g.Sets.Table)
	case nft.Gateway:
		return fmt.Sprintf("The gate filters %s of %s behind this host: only granted addresses may connect.", ports, prefixWords(g.Servers))
	}
	return fmt.Sprintf("The gate observes %s: everybody may connect, and the sets show who would be let in.", ports)
}

func (g *Gate) brakeWords() string {
	var brakes []string
	if g.MaxNewPerMinute > 0 {
		brakes = append(brakes, "open "+authz.Count(g.MaxNewPerMinute, "connection")+" per minute")
	}
	if g.MaxConcurrent > 0 {
		brakes = append(brakes, fmt.Sprintf("hold %d at the same time", g.MaxConcurrent))
	}
	if len(brakes) == 0 {
		return "No brake bounds the connections of a granted address."
	}
	return "A granted address may " + strings.Join(brakes, " and ") + "."
}

func (g *Gate) exitWords() string {
	words := map[OnExit]string{
		ExitExpire: "When relaygate ends, grants run out by themselves",
		ExitClose:  "When relaygate ends, all grants are closed",
		ExitKeep:   "When relaygate ends, each grant stays for all the time that it was promised, and the files keep their lines",
	}[g.OnExit]
	if g.CutOnExpiry {
		return words + "; connections in progress end with their grant."
	}
	return words + "; connections in progress outlive their grant."
}

// PortWords lists ports: "110, 995".
func PortWords(ports []uint16) string {
	if len(ports) == 0 {
		return "no port"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]")
}

func prefixWords(prefixes []netip.Prefix) string {
	words := make([]string, len(prefixes))
	for i, p := range prefixes {
		words[i] = authz.PrefixString(p)
	}
	return strings.Join(words, ", ")
}

// span is a duration as people write it: "30m", "2h", "30d".
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

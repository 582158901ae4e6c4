package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"relaygate/nft"
)

// maxServers is the room that the tap on interfaces has for them.
const maxServers = 4096

func (c *checker) gate(r *raw, cfg *Config) {
	g := &cfg.Gate
	g.Mode, g.Named = nft.Mode(c.oneOf("gate.mode", r.Gate.Mode, nft.Modes...)), c.line("gate.mode") > 0
	c.gatePorts(r, cfg)
	g.Mark = c.mark("gate.mark", r.Gate.Mark)
	g.Sets = c.sets(&r.Gate.Sets, g.Mode, cfg.IPv6Prefix)
	if g.Mode == nft.UserSets {
		for _, p := range cfg.Always {
			if err := g.Sets.CheckStatic(p); err != nil {
				c.fail("grant.always", err)
			}
		}
	}
	g.Servers = c.prefixes("gate.servers", r.Gate.Servers)
	if g.Mode == nft.Gateway && len(r.Gate.Servers) == 0 {
		c.failf("gate.servers", "mode \"gateway\" needs the addresses of the mail servers behind this host")
	}
	if len(g.Servers) > maxServers {
		c.failf("gate.servers", "%d addresses and prefixes are more than the %d that have room", len(g.Servers), maxServers)
	}
	g.MaxNewPerMinute = c.between("gate.max_new_per_minute", r.Gate.MaxNewPerMinute, 0, 100_000)
	g.MaxConcurrent = c.between("gate.max_concurrent", r.Gate.MaxConcurrent, 0, 100_000)
	g.OnExit = OnExit(c.oneOf("gate.on_exit", r.Gate.OnExit, exits...))
	g.CutOnExpiry, g.Own = r.Gate.CutOnExpiry, r.Gate.Own
	if g.Own && g.Mode == nft.UserSets {
		c.failf("gate.own", "mode \"sets\" has no table of its own")
	}
}

func (c *checker) gatePorts(r *raw, cfg *Config) {
	if len(r.Gate.Ports) == 0 {
		c.failf("gate.ports", "names no port")
	}
	relay, ok := c.port("gate.relay_port", r.Gate.RelayPort)
	for _, n := range r.Gate.Ports {
		port, good := c.port("gate.ports", n)
		if !good {
			continue
		}
		if _, watched := cfg.Services[port]; watched {
			c.failf("gate.ports", "port %d is watched for logins: it cannot be closed too", port)
		}
		if port == relay && cfg.Gate.Mode == nft.Redirect {
			c.failf("gate.relay_port", "port %d is one of gate.ports: it cannot lead to itself", port)
		}
		cfg.Gate.Ports = append(cfg.Gate.Ports, port)
	}
	slices.Sort(cfg.Gate.Ports)
	if ok && relay >= 1024 && cfg.Gate.Mode == nft.Redirect {
		c.failf("gate.relay_port", "any local user may listen on port %d while it is free: choose one below 1024", relay)
	}
	if _, watched := cfg.Services[relay]; ok && watched && cfg.Gate.Mode == nft.Redirect {
		c.failf("gate.relay_port", "port %d is watched for logins", relay)
	}
	cfg.Gate.RelayPort = relay
}

// mark reads a firewall mark: a number, in hexadecimal with 0x.
func (c *checker) mark(key, s string) uint32 {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 {
		c.failf(key, "%q is no mark (like \"0x00100000\")", s)
	}
	return uint32(n)
}

// identifier is a name as nft(8) reads it.
var identifier = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9/\\_.]{0,31}$`)

// sets checks the names of the administrator's table and sets. Whether they are
// there, and of the right type, the kernel will say.
func (c *checker) sets(r *rawSets, mode nft.Mode, ipv6Prefix int) nft.Sets {
	s := nft.Sets{Allow4: r.Allow4, Allow6: r.Allow6, Net6: r.Net6}
	var ok bool
	s.Family, s.Table, ok = strings.Cut(r.Table, " ")
	if mode != nft.UserSets && r.Table == "" {
		return s
	}
	if !ok || !identifier.MatchString(s.Table) || s.Family != "inet" && s.Family != "ip" && s.Family != "ip6" {
		c.failf("gate.sets.table", "%q is no family and table (like \"inet filter\")", r.Table)
	}
	for key, name := range map[string]string{"allow4": s.Allow4, "allow6": s.Allow6, "net6": s.Net6} {
		if name != "" && !identifier.MatchString(name) {
			c.failf("gate.sets."+key, "%q is no set's name", name)
		}
	}
	switch {
	case s.Allow4 == "" && s.Allow6 == "":
		c.failf("gate.sets.allow4", "neither allow4 nor allow6 is named")
	case ipv6Prefix == 64 && s.Allow6 != "" && s.Net6 == "":
		c.failf("gate.sets.net6", "is needed with grant.ipv6_prefix = 64")
	}
	return s
}

// namespaces turns names into paths: one without a slash is that of
// ip-netns(8), below /run/netns.
func (c *checker) namespaces(key string, names []string) []string {
	var paths []string
	for _, name := range names {
		switch {
		case name == "" || name == "." || name == "..":
			c.failf(key, "%q is no network namespace", name)
		case !strings.Contains(name, "/"):
			paths = append(paths, filepath.Join("/run/netns", name))
		case filepath.IsAbs(name):
			paths = append(paths, filepath.Clean(name))
		default:
			c.fail(key, fmt.Errorf("%q is neither a name nor an absolute path (like \"/proc/812/ns/net\")", name))
		}
	}
	return paths
}

// exits are the words for OnExit.
var exits = []string{ExitExpire: "expire", ExitClose: "close", ExitKeep: "keep"}

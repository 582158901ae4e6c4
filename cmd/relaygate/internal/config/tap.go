package config

import (
	"slices"
	"strings"

	"relaygate/nft"
)

// maxInterfaceName is IFNAMSIZ without its final NUL (netdevice(7)).
const maxInterfaceName = 15

// tap checks how connections are seen, and that what the gate needs can be.
func (c *checker) tap(r *raw, cfg *Config) {
	cfg.Tap = Tap(c.oneOf("watch.tap", r.Watch.Tap, "auto", "cgroup", "afpacket", "tcx"))
	cfg.Interfaces = r.Watch.Interfaces
	for i, name := range cfg.Interfaces {
		switch {
		case name == "" || name == "." || name == ".." || len(name) > maxInterfaceName || strings.ContainsAny(name, "/: \t\n"):
			c.failf("watch.interfaces", "%q is no interface's name", name)
		case slices.Contains(cfg.Interfaces[:i], name):
			c.failf("watch.interfaces", "%q is named twice", name)
		}
	}
	none, gateway := len(cfg.Interfaces) == 0, r.Gate.Mode == nft.Gateway.String()
	switch {
	case gateway && cfg.Tap == TapCgroup:
		c.failf("watch.tap", "tap \"cgroup\" sees this host's own connections alone: gate mode \"gateway\" needs \"auto\", \"tcx\" or \"afpacket\"")
	case gateway && none:
		c.failf("watch.interfaces", "gate mode \"gateway\" needs the interfaces that lead to the mail servers, like [\"eth1\"]")
	case cfg.Tap == TapAFPacket && none, cfg.Tap == TapTCX && none:
		c.failf("watch.interfaces", "tap %q needs the interfaces to tap", r.Watch.Tap)
	case !gateway && len(r.Watch.TrustedNetns) > 0 && (cfg.Tap == TapAFPacket || cfg.Tap == TapTCX):
		c.failf("watch.trusted_netns", "tap %q does not show whose words this host forwards: name none, or use tap \"cgroup\"", r.Watch.Tap)
	case cfg.Tap == TapCgroup && !none:
		c.failf("watch.interfaces", "tap \"cgroup\" sees every interface: name none")
	}
}

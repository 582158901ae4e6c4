package nft

import (
	"errors"
	"fmt"
	"net/netip"
)

// Mode says what the gate does with connections from strangers.
type Mode uint8

const (
	// Observe keeps the sets, so that a listing shows who would pass, and has
	// no chain: it opens and closes nothing.
	Observe Mode = iota
	// Filter refuses connections to the gate's ports from everybody who is in
	// no set, with a TCP reset.
	Filter
)

func (m Mode) String() string {
	switch m {
	case Observe:
		return "observe"
	case Filter:
		return "filter"
	}
	return "unknown"
}

// Config says what to declare. It stays as it is for the life of a Gate: to
// change it, open another Gate and let it Rebuild the table.
type Config struct {
	Mode Mode
	// Ports are the TCP ports that the gate guards. Filter needs at least one.
	Ports []uint16
	// Static members always pass, besides the loopback addresses.
	Static []netip.Prefix
	// IPv6Prefix is the length that one element opens: 128 (also if it is 0)
	// or 64.
	IPv6Prefix int
	// Netns is the file descriptor of the network namespace to work in, 0 for
	// the caller's own. It is needed until Open and Watch have returned.
	Netns int
}

// validate returns the Config with its defaults filled in and its prefixes
// unmapped, or says what is wrong with it.
func (c Config) validate() (Config, error) {
	switch c.Mode {
	case Observe:
	case Filter:
		if len(c.Ports) == 0 {
			return c, errors.New("gate mode filter needs a port")
		}
	default:
		return c, fmt.Errorf("unknown gate mode %d", c.Mode)
	}
	for _, port := range c.Ports {
		if port == 0 {
			return c, errors.New("port 0 cannot be guarded")
		}
	}
	switch c.IPv6Prefix {
	case 0:
		c.IPv6Prefix = 128
	case 64, 128:
	default:
		return c, fmt.Errorf("IPv6 prefix length %d: want 64 or 128", c.IPv6Prefix)
	}
	static := make([]netip.Prefix, len(c.Static))
	for i, p := range c.Static {
		unmapped, err := unmapPrefix(p)
		if err != nil {
			return c, err
		}
		static[i] = unmapped
	}
	c.Static = static
	return c, nil
}

// unmapPrefix turns ::ffff:192.0.2.0/120 into 192.0.2.0/24: packets from there
// are IPv4, and an IPv6 element would never match.
func unmapPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("static member is no valid prefix")
	}
	if !p.Addr().Is4In6() {
		return p.Masked(), nil
	}
	if p.Bits() < 96 {
		return p, fmt.Errorf("static member %s reaches beyond the IPv4-mapped addresses", p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked(), nil
}

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"relaygate/authz"
)

// Mode says what the gate does with connections from members and strangers.
type Mode uint8

const (
	// Observe keeps the sets, so that a listing shows who would pass, and has
	// no chain: it opens and closes nothing.
	Observe Mode = iota
	// Filter refuses connections to the gate's ports from everybody who is in
	// no set, with a TCP reset.
	Filter
	// Redirect leads members' connections to the relay port, keeping their
	// addresses. Strangers reach what listens on the gate's ports, and are
	// refused at the relay port.
	Redirect
	// Mark sets a bit in the packet mark of members' packets to the gate's
	// ports, for rules of the administrator's own.
	Mark
	// UserSets keeps elements in sets of a table that belongs to the
	// administrator, and nothing else.
	UserSets
	// Gateway is Filter for mail servers behind this host.
	Gateway
)

// Modes are the names of the modes, by Mode.
var Modes = []string{
	Observe: "observe", Filter: "filter", Redirect: "redirect", Mark: "mark", UserSets: "sets", Gateway: "gateway",
}

func (m Mode) String() string { return authz.Word(Modes, m) }

// Config says what to declare. Reconfigure replaces it.
type Config struct {
	Mode Mode
	// Ports are the TCP ports that the gate guards. Observe and UserSets need
	// none, every other mode at least one.
	Ports []uint16
	// Static members always pass, besides the loopback addresses.
	Static []netip.Prefix
	// IPv6Prefix is the length that one element opens: 128 (also if it is 0)
	// or 64.
	IPv6Prefix int
	// RelayPort is where Redirect leads members. It is below 1024, as any local
	// user may listen on a higher one while it is free.
	RelayPort uint16
	// Mark is what the mode of that name sets in the packet mark. All bits of it
	// are set, no other is touched.
	Mark uint32
	// Sets are those that UserSets writes to.
	Sets Sets
	// Servers are the addresses that Gateway guards.
	Servers []netip.Prefix
	// Brakes bound what one member may do, in Filter, Redirect, Mark and
	// Gateway.
	Brakes Brakes
	// Own makes the table ours in the kernel's eyes (flags owner and persist,
	// Linux 6.9): other programs can read it and not change it, and it outlives
	// this process. Where the kernel cannot, the table is as any other; Lacks
	// says so. UserSets has no such table.
	Own bool
	// Netns is the file descriptor of the network namespace to work in, 0 for
	// the caller's own. It is needed until Open and Watch have returned.
	Netns int

	// drain says that connections may be there that Redirect led.
	drain bool
}

// Sets name sets of the administrator's. Each has elements with a timeout and
// neither ranges nor a value. Where a name is empty, such members are refused.
type Sets struct {
	Family, Table        string // as in nft(8): family is inet, ip or ip6
	Allow4, Allow6, Net6 string // of type ipv4_addr, ipv6_addr, ipv6_addr
}

// Brakes hold for each member, by address or, where IPv6Prefix is 64, by that
// network. 0 is no brake.
type Brakes struct {
	NewPerMinute int // connections opened in a minute; so many may come at once
	Concurrent   int // connections at a time, as connection tracking sees them
}

func (b Brakes) on() bool { return b.NewPerMinute > 0 || b.Concurrent > 0 }

// validate returns the Config with its defaults filled in and its prefixes
// unmapped, or says what is wrong with it.
func (c Config) validate() (Config, error) {
	if int(c.Mode) >= len(Modes) {
		return c, fmt.Errorf("unknown gate mode %d", c.Mode)
	}
	if len(c.Ports) == 0 && c.Mode != Observe && c.Mode != UserSets {
		return c, fmt.Errorf("gate mode %s needs a port", c.Mode)
	}
	if slices.Contains(c.Ports, 0) {
		return c, errors.New("port 0 cannot be guarded")
	}
	switch c.IPv6Prefix {
	case 0:
		c.IPv6Prefix = 128
	case 64, 128:
	default:
		return c, fmt.Errorf("IPv6 prefix length %d: want 64 or 128", c.IPv6Prefix)
	}
	const most = 1 << 20 // of a brake; far from what overflows in the kernel
	for _, n := range []int{c.Brakes.NewPerMinute, c.Brakes.Concurrent} {
		if n < 0 || n > most {
			return c, fmt.Errorf("brake of %d connections: want 0 to %d", n, most)
		}
	}
	var err error
	if c.Static, err = unmapPrefixes(c.Static); err != nil {
		return c, fmt.Errorf("static member: %w", err)
	}
	if c.Servers, err = unmapPrefixes(c.Servers); err != nil {
		return c, fmt.Errorf("mail server: %w", err)
	}
	return c, c.validateMode()
}

// validateMode checks what one mode needs.
func (c Config) validateMode() error {
	switch c.Mode {
	case Redirect:
		if c.RelayPort == 0 || c.RelayPort >= 1024 {
			return fmt.Errorf("relay port %d: want one below 1024, where no local user can listen", c.RelayPort)
		}
		if slices.Contains(c.Ports, c.RelayPort) {
			return fmt.Errorf("relay port %d is guarded itself", c.RelayPort)
		}
	case Mark:
		if c.Mark == 0 {
			return errors.New("gate mode mark needs a mark with a bit in it")
		}
	case UserSets:
		return c.validateSets()
	case Gateway:
		if len(c.Servers) == 0 {
			return errors.New("gate mode gateway needs the addresses of mail servers")
		}
	}
	return nil
}

// unmapPrefixes are prefixes as packets show them: from ::ffff:192.0.2.0/120 these are
// IPv4, and an IPv6 element would never match.
func unmapPrefixes(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	unmapped := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		var err error
		if unmapped[i], err = authz.NormalPrefix(p); err != nil {
			return nil, err
		}
	}
	return unmapped, nil
}

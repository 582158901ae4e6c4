// Package config reads relaygate's configuration: strict TOML, checked in one
// place, with file, line and key in every error. The embedded default file is
// the documentation of the defaults.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
	"relaygate/nft"
)

// DefaultFile is the commented file that holds every key with its default.
//
//go:embed default.toml
var DefaultFile []byte

// Config is a checked configuration.
type Config struct {
	// Services says what each watched port speaks.
	Services map[uint16]authz.Service
	// Owners are the user IDs whose listeners are believed.
	Owners []uint32
	// Tap is how connections are seen; Interfaces are those of TapTCX and
	// TapAFPacket, on a gateway the ones that lead to its mail servers.
	Tap        Tap
	Interfaces []string
	// TLS says whether connections in TLS are read where their server's library
	// can be.
	TLS bool
	// TrustedNetns are the paths of network namespaces whose listeners are
	// believed, besides the daemon's own.
	TrustedNetns []string
	// TrustedProxies may announce clients and are never granted.
	TrustedProxies []netip.Prefix

	// Lifetime is how long a login opens the gate.
	Lifetime time.Duration
	// FollowSessions: an open session holds its grant, for MaxSession at the
	// longest.
	FollowSessions bool
	MaxSession     time.Duration
	// IPv6Prefix is 128 or 64.
	IPv6Prefix int
	// MaxUsers bounds the users of one address, MaxAddresses the addresses of
	// one user.
	MaxUsers, MaxAddresses int
	// Never and Always are the administrator's own rules.
	Never, Always []netip.Prefix

	// Gate says how the grants are enforced.
	Gate Gate

	// Relayhosts and UsersFile are paths, empty to write none.
	Relayhosts, UsersFile string
	// Dialect is that of Relayhosts.
	Dialect relayhosts.Dialect

	// StatePath is the file that keeps grants and evidence over a restart, and
	// Retain how long it keeps what is over.
	StatePath string
	Retain    time.Duration

	// Socket is the path of the control socket.
	Socket string
	// Metrics is the address and port that Prometheus reads, empty for none.
	Metrics string
}

// Gate is the part of the configuration about the nftables table.
type Gate struct {
	// Mode is what the gate does, and Named true if the file names it.
	Mode  nft.Mode
	Named bool
	// Ports are the guarded ports, RelayPort where members are led to in mode
	// redirect, and Mark the bit that they are marked with in mode mark.
	Ports     []uint16
	RelayPort uint16
	Mark      uint32
	// Sets are the administrator's own, for mode sets. Net6, the set of masked /64
	// networks, is needed with IPv6Prefix 64 alone.
	Sets nft.Sets
	// Servers are the mail servers behind this host, for mode gateway.
	Servers []netip.Prefix
	// MaxNewPerMinute and MaxConcurrent bound the SMTP connections of one
	// member; 0 is no bound.
	MaxNewPerMinute, MaxConcurrent int
	OnExit                         OnExit
	// CutOnExpiry: SMTP connections in progress end with the grant.
	CutOnExpiry bool
	// Own: no other program may change the table, where the kernel can.
	Own bool
}

// OnExit is what becomes of the gate's members when the daemon ends.
type OnExit uint8

const (
	// ExitExpire: they run out by themselves.
	ExitExpire OnExit = iota
	// ExitClose: they are removed; the gate stays closed.
	ExitClose
	// ExitKeep: each stays for all that it was promised, in the files too,
	// where nothing runs out.
	ExitKeep
)

// Tap is a way to see connections.
type Tap uint8

const (
	// TapAuto is TapCgroup, or where that cannot be had and interfaces are
	// named TapTCX, or else TapAFPacket. On a gateway it is one of these two.
	TapAuto Tap = iota
	// TapCgroup: programs on the root cgroup.
	TapCgroup
	// TapAFPacket: a packet socket, for named interfaces.
	TapAFPacket
	// TapTCX: programs on named interfaces.
	TapTCX
)

// Inside says that the mail servers are behind this host, a gateway.
func (c *Config) Inside() bool { return c.Gate.Mode == nft.Gateway }

// Ports are the watched ports that speak a protocol, in order.
func (c *Config) Ports(p authz.Protocol) []uint16 {
	ports := []uint16{}
	for port, s := range c.Services {
		if s.Protocol == p {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports
}

// Files are the paths of those that are written for mail servers.
func (c *Config) Files() []string {
	return slices.DeleteFunc([]string{c.Relayhosts, c.UsersFile}, func(path string) bool { return path == "" })
}

// Error is one mistake in a configuration file.
type Error struct {
	File string
	Line int // from 1; 0 where no line is to blame
	Key  string
	Err  error
}

func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
	}
	if e.Key != "" {
		s += ": " + e.Key
	}
	return s + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Default is the configuration without any file.
func Default() (*Config, error) { return Parse("defaults", nil) }

// Load reads the file at path.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

// maxFile bounds a configuration in bytes: what was put in its place may have no end.
const maxFile = 1 << 20

// readFile reads a configuration, or as much as one may have.
func readFile(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		data, err = data[:maxFile], fmt.Errorf("%s is longer than any configuration", path)
	}
	return data, err
}

// Parse checks data, the contents of the file called name, over the defaults.
func Parse(name string, data []byte) (*Config, error) {
	var r raw
	if err := decode("default.toml", DefaultFile, &r); err != nil {
		return nil, err
	}
	if err := decode(name, data, &r); err != nil {
		return nil, err
	}
	c := &checker{file: name, lines: keyLines(data)}
	for _, key := range slices.Sorted(maps.Keys(c.lines)) {
		if key != strings.ToLower(key) { // the library takes them all the same
			c.failf(key, "keys are written in small letters")
		}
	}
	cfg := c.check(&r)
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return cfg, nil
}

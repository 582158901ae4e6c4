package config

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
)

// minLifetime and maxLifetime bound grant.lifetime.
const (
	minLifetime = time.Second
	maxLifetime = 30 * 24 * time.Hour
)

// checker collects the mistakes of one file.
type checker struct {
	file  string
	lines map[string]int
	errs  []error
}

func (c *checker) fail(key string, err error) {
	c.errs = append(c.errs, &Error{File: c.file, Line: c.line(key), Key: key, Err: err})
}

// line is that of key, or of the inline table that it stands in.
func (c *checker) line(key string) int {
	for {
		if line, ok := c.lines[key]; ok {
			return line
		}
		dot := strings.LastIndexByte(key, '.')
		if dot < 0 {
			return 0
		}
		key = key[:dot]
	}
}

func (c *checker) failf(key, format string, args ...any) { c.fail(key, fmt.Errorf(format, args...)) }

// distinct refuses a path that stands for two files, by their keys: what one of them held
// would be lost.
func (c *checker) distinct(paths [][2]string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // without it all are asked
	slow, first := mayHang(string(mounts)), make(map[string]string)
	for _, p := range paths {
		if p[1] == "" {
			continue
		}
		place := leadsTo(p[1], slow)
		if other, ok := first[place]; ok {
			c.failf(p[0], "is the same file as %s", other)
		} else {
			first[place] = p[0]
		}
	}
}

func (c *checker) check(r *raw) *Config {
	cfg := &Config{Services: make(map[uint16]authz.Service)}
	c.watch(r, cfg)
	c.grant(r, cfg)
	c.gate(r, cfg)
	cfg.Relayhosts = c.path("files.relayhosts", r.Files.Relayhosts, true)
	cfg.UsersFile = c.path("files.users", r.Files.Users, true)
	cfg.Dialect = relayhosts.Dialect(c.oneOf("files.dialect", r.Files.Dialect, relayhosts.Dialects...))
	cfg.StatePath = c.path("state.path", r.State.Path, false)
	cfg.Retain = c.duration("state.retain", r.State.Retain, time.Hour, 10*365*24*time.Hour)
	cfg.Socket = c.path("control.socket", r.Control.Socket, false)
	if len(cfg.Socket) > maxSocketPath {
		c.failf("control.socket", "is longer than the %d bytes of a socket's address", maxSocketPath)
	}
	c.distinct([][2]string{
		{"the configuration", c.file},
		{"files.relayhosts", cfg.Relayhosts},
		{"files.users", cfg.UsersFile},
		{"state.path", cfg.StatePath},
		{"control.socket", cfg.Socket},
	})
	cfg.Metrics = c.listen("metrics.listen", r.Metrics.Listen)
	return cfg
}

// maxSocketPath is sun_path without its final NUL (unix(7)).
const maxSocketPath = 107

func (c *checker) watch(r *raw, cfg *Config) {
	c.services("watch.pop3", r.Watch.POP3, authz.POP3, cfg.Services)
	c.services("watch.imap", r.Watch.IMAP, authz.IMAP, cfg.Services)
	if len(cfg.Services) == 0 && len(c.errs) == 0 {
		c.failf("watch.pop3", "nothing is watched: both pop3 and imap are empty")
	}
	c.tap(r, cfg)
	cfg.TLS = c.oneOf("watch.tls", r.Watch.TLS, "auto", "off") == 0
	cfg.TrustedNetns = c.namespaces("watch.trusted_netns", r.Watch.TrustedNetns)
	cfg.TrustedProxies = c.trusted("watch.trusted_proxies", r.Watch.TrustedProxies)
	cfg.Owners = c.owners("watch.owners", r.Watch.Owners)
}

func (c *checker) grant(r *raw, cfg *Config) {
	cfg.Lifetime = c.duration("grant.lifetime", r.Grant.Lifetime, minLifetime, maxLifetime)
	cfg.FollowSessions = r.Grant.FollowSessions
	cfg.MaxSession = c.duration("grant.max_session", r.Grant.MaxSession, minLifetime, maxLifetime)
	cfg.IPv6Prefix = r.Grant.IPv6Prefix
	if cfg.IPv6Prefix != 128 && cfg.IPv6Prefix != 64 {
		c.failf("grant.ipv6_prefix", "%d is neither 128 nor 64", cfg.IPv6Prefix)
	}
	cfg.MaxUsers = c.between("grant.max_users", r.Grant.MaxUsers, 1, 1000)
	cfg.MaxAddresses = c.between("grant.max_addresses", r.Grant.MaxAddresses, 1, 100_000)
	cfg.Never = c.prefixes("grant.never", r.Grant.Never)
	cfg.Always = c.trusted("grant.always", r.Grant.Always)
}

func (c *checker) services(key string, ports []int, p authz.Protocol, into map[uint16]authz.Service) {
	for _, n := range ports {
		port, ok := c.port(key, n)
		if !ok {
			continue
		}
		if _, twice := into[port]; twice {
			c.failf(key, "port %d is named twice", port)
		}
		into[port] = Service(port, p)
	}
}

// Service is what a port speaks that is watched for p: the two ports of RFC
// 8314 §3 start with TLS.
func Service(port uint16, p authz.Protocol) authz.Service {
	return authz.Service{Protocol: p, ImplicitTLS: port == 995 || port == 993}
}

func (c *checker) port(key string, n int) (uint16, bool) {
	if n < 1 || n > 65535 {
		c.failf(key, "%d is no port (1 to 65535)", n)
		return 0, false
	}
	return uint16(n), true
}

// oneOf is the index of value, 0 where it is none of them.
func (c *checker) oneOf(key, value string, allowed ...string) int {
	if i := slices.Index(allowed, value); i >= 0 {
		return i
	}
	c.failf(key, "%q is none of %q", value, allowed)
	return 0
}

func (c *checker) between(key string, n, low, high int) int {
	if n < low || n > high {
		c.failf(key, "%d is not between %d and %d", n, low, high)
	}
	return n
}

func (c *checker) duration(key, s string, low, high time.Duration) time.Duration {
	d, err := ParseDuration(s)
	if err != nil {
		c.fail(key, err)
	} else if d < low || d > high {
		c.failf(key, "%q is not between %s and %s", s, span(low), span(high))
	}
	return d
}

func (c *checker) path(key, s string, mayBeEmpty bool) string {
	if s == "" && mayBeEmpty {
		return ""
	}
	if !filepath.IsAbs(s) {
		c.failf(key, "%q is no absolute path", s)
	}
	return filepath.Clean(s)
}

// listen checks an address and port to listen on. A name is refused: what it
// means may change, and with it who can connect.
func (c *checker) listen(key, s string) string {
	if s == "" {
		return ""
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		c.failf(key, "%q is no IP address and port (like \"127.0.0.1:9125\" or \"[::1]:9125\")", s)
		return ""
	}
	return ap.String()
}

func (c *checker) prefixes(key string, texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		p, err := ParsePrefix(s)
		if err != nil {
			c.fail(key, err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// widest4 and widest6 are the widest prefixes that are trusted: those of private networks
// are no wider (RFC 1918 §3, RFC 4193 §3.1), nor are those that one organisation holds.
const widest4, widest6 = 8, 7

// trusted are prefixes of clients that are believed without a login, or of what they say.
// By a slip like /0 that would be the whole Internet.
func (c *checker) trusted(key string, texts []string) []netip.Prefix {
	out := c.prefixes(key, texts)
	for _, p := range out {
		widest := widest4
		if p.Addr().Is6() {
			widest = widest6
		}
		if p.Bits() < widest {
			c.failf(key, "%s is too much of the Internet to be trusted: /%d is the widest", p, widest)
		}
	}
	return out
}

// ParsePrefix reads an address or a prefix. Set host bits are an error: who
// wrote 192.0.2.7/24 may have meant either.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q has a zone", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no address or prefix", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has host bits set: %s, or %s?", s, p.Masked(), p.Addr())
	}
	return p, nil
}

func (c *checker) owners(key string, names []string) []uint32 {
	var uids []uint32
	for _, name := range names {
		text := name
		if u, err := user.Lookup(name); err == nil {
			text = u.Uid
		}
		uid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			c.failf(key, "there is no user %q", name)
			continue
		}
		uids = append(uids, uint32(uid))
	}
	if len(names) == 0 {
		c.failf(key, "names nobody: no listener would be believed")
	}
	return uids
}

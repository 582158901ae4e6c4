package config

import (
	"relaygate/authz"
	"relaygate/authz/grant"
)

// Grants are the bounds of the table of grants, and Rules the policy's.
func (c *Config) Grants() grant.Config {
	return grant.Config{
		Lifetime: c.Lifetime, Follow: c.FollowSessions, MaxSession: c.MaxSession,
		IPv6Prefix: c.IPv6Prefix, MaxUsers: c.MaxUsers, MaxAddresses: c.MaxAddresses,
	}
}

func (c *Config) Rules() authz.Rules {
	return authz.Rules{Never: c.Never, Always: c.Always, Proxies: c.TrustedProxies}
}

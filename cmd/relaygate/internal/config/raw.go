package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// raw is the file as it is written: one field per key, nothing interpreted.
type raw struct {
	Watch struct {
		POP3           []int    `toml:"pop3"`
		IMAP           []int    `toml:"imap"`
		Tap            string   `toml:"tap"`
		TLS            string   `toml:"tls"`
		Owners         []string `toml:"owners"`
		TrustedNetns   []string `toml:"trusted_netns"`
		TrustedProxies []string `toml:"trusted_proxies"`
		Interfaces     []string `toml:"interfaces"`
	} `toml:"watch"`
	Grant struct {
		Lifetime       string   `toml:"lifetime"`
		FollowSessions bool     `toml:"follow_sessions"`
		MaxSession     string   `toml:"max_session"`
		IPv6Prefix     int      `toml:"ipv6_prefix"`
		MaxUsers       int      `toml:"max_users"`
		MaxAddresses   int      `toml:"max_addresses"`
		Never          []string `toml:"never"`
		Always         []string `toml:"always"`
	} `toml:"grant"`
	Gate struct {
		Mode            string   `toml:"mode"`
		Ports           []int    `toml:"ports"`
		RelayPort       int      `toml:"relay_port"`
		Mark            string   `toml:"mark"`
		Sets            rawSets  `toml:"sets"`
		Servers         []string `toml:"servers"`
		MaxNewPerMinute int      `toml:"max_new_per_minute"`
		MaxConcurrent   int      `toml:"max_concurrent"`
		OnExit          string   `toml:"on_exit"`
		CutOnExpiry     bool     `toml:"cut_on_expiry"`
		Own             bool     `toml:"own"`
	} `toml:"gate"`
	Files struct {
		Relayhosts string `toml:"relayhosts"`
		Dialect    string `toml:"dialect"`
		Users      string `toml:"users"`
	} `toml:"files"`
	State struct {
		Path   string `toml:"path"`
		Retain string `toml:"retain"`
	} `toml:"state"`
	Control struct {
		Socket string `toml:"socket"`
	} `toml:"control"`
	Metrics struct {
		Listen string `toml:"listen"`
	} `toml:"metrics"`
}

type rawSets struct {
	Table  string `toml:"table"`
	Allow4 string `toml:"allow4"`
	Allow6 string `toml:"allow6"`
	Net6   string `toml:"net6"`
}

// ParseDuration reads what time.ParseDuration reads, and whole days ("30d").
func ParseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration (like \"90s\", \"30m\", \"30d\")", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration (like \"90s\", \"30m\", \"30d\")", s)
	}
	return d, nil
}

package hostinfo

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Forwards says whether this host sends on what others say over IPv4 or IPv6, by
// whichever interface that comes in; where it cannot be seen, that it does.
//
// IPv6 sends on what bears this host's own address, from whomever it comes; IPv4 what
// it was told to take so (accept_local), and what it gives the address (NAT).
func Forwards(six bool) bool {
	if !six {
		return anyOn("/proc/sys/net/ipv4/conf/*/forwarding", true)
	}
	return anyOn("/proc/sys/net/ipv6/conf/all/forwarding", false) ||
		anyOn("/proc/sys/net/ipv6/conf/*/force_forwarding", false) // Linux 6.17
}

// anyOn says whether a setting is on somewhere; absent is what it says if there is none.
func anyOn(pattern string, absent bool) bool {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return absent
	}
	for _, file := range files {
		on, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its interface is gone
		}
		if err != nil || strings.TrimSpace(string(on)) != "0" {
			return true
		}
	}
	return false
}

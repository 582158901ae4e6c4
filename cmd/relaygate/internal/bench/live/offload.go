package live

import (
	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// offloads are what lets packets be larger than the MTU, as ethtool sets them
// (linux/ethtool.h).
var offloads = []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO}

// offload turns them on or off at both ends of the cable.
func (w *world) offload(on bool) {
	for iface, ns := range map[string]*netns.Namespace{serverPort: w.serverNS, clientPort: w.clientNS} {
		must.Do(ns.Do(func() error { return netns.SetOffload(iface, on, offloads...) }))
	}
}

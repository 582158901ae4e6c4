package control

import (
	"context"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

type peerKey struct{}

// peer is who connected, as the kernel tells it (SO_PEERCRED, unix(7)).
type peer struct {
	uid    uint32
	groups []uint32
}

// withPeer remembers the peer of a connection; without one nobody may ask.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*net.UnixConn); ok {
		if p, err := peerOf(l); err == nil {
			return context.WithValue(ctx, peerKey{}, p)
		}
	}
	return ctx
}

func peerOf(c *net.UnixConn) (p peer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return p, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner == nil {
			p = peer{uid: cred.Uid, groups: []uint32{cred.Gid}}
		}
	})
	if err == nil {
		err = inner
	}
	return p, err
}

// mayRead: root, root's group, and the user that the daemon runs as.
func mayRead(ctx context.Context) bool {
	p, ok := ctx.Value(peerKey{}).(peer)
	return ok && (p.uid == 0 || p.uid == uint32(os.Geteuid()) || slices.Contains(p.groups, 0))
}

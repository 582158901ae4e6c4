package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"relaygate/authz"
)

type peerKey struct{}

// peer is who connected, as the kernel tells it (SO_PEERCRED, unix(7)).
type peer struct {
	uid uint32
	pid int32
}

// withPeer remembers the peer of a connection; without one nobody may order.
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
			p = peer{uid: cred.Uid, pid: cred.Pid}
		}
	})
	if err == nil {
		err = inner
	}
	return p, err
}

// isRoot says whether root connected.
func isRoot(c net.Conn) bool {
	p, ok := withPeer(context.Background(), c).Value(peerKey{}).(peer)
	return ok && p.uid == 0
}

// By is who ordered something, in words fit for a journal.
type By string

// orderer: uid 0 alone may change anything; whom the socket's mode lets in may ask. The
// user that logged in before becoming root is told too, where the kernel's audit knows it
// (credentials(7), /proc/PID/loginuid); like the program's name it is for the journal
// alone, and nothing rests on it.
func orderer(ctx context.Context) (By, bool) {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok || p.uid != 0 {
		return "", false
	}
	words := "root (uid 0)"
	if login, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", p.pid)); err == nil {
		if id := strings.TrimSpace(string(login)); id != unsetLogin && id != "0" {
			words = userName(id) + " as " + words
		}
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid)); err == nil {
		// Our own verbs go without saying.
		if name := strings.TrimSpace(string(comm)); name != "relaygate" {
			words += fmt.Sprintf(", with %s[%d]", authz.Quote(name), p.pid)
		}
	}
	return By(words), true
}

// unsetLogin is (uid_t)-1: nobody logged in (a service, a container).
const unsetLogin = "4294967295"

func userName(id string) string {
	if _, err := strconv.ParseUint(id, 10, 32); err != nil {
		return "somebody"
	}
	if u, err := user.LookupId(id); err == nil {
		return authz.Quote(u.Username)
	}
	return "user " + id
}

package nft

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrClaimed says that another process keeps the gate of this network namespace.
var ErrClaimed = errors.New("another relaygate keeps this gate")

// claimTable is empty. It has an owner, so the kernel removes it with the socket
// that made it, however its process ends, and only who may change rulesets can
// make one.
var claimTable = tableID{unix.NFPROTO_INET, Table + "_claim"}

// Claim makes sure that no other Gate in this network namespace is claimed until
// this one is closed. The error wraps ErrClaimed and names the other's process,
// or wraps ErrUnsupported (Linux before 5.12).
func (g *Gate) Claim() error {
	body := claimTable.body()
	body.uint32(unix.NFTA_TABLE_FLAGS, tableOwner)
	body.bytes(tableUserdata, comment(udataComment, fmt.Sprintf("process %d; leave it out of a ruleset that you save", os.Getpid())))
	for range 2 {
		_, err := g.conn.commit([]netlink.Message{message(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, body)})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
			return fmt.Errorf("claim the gate: %w: %w", ErrUnsupported, err)
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EPERM):
			return fmt.Errorf("claim the gate: %w", err)
		}
		owner, who, err := g.claimant()
		switch {
		case errors.Is(err, unix.ENOENT):
			continue // gone meanwhile
		case err != nil:
			return fmt.Errorf("ask who claimed the gate: %w", err)
		case owner == g.conn.PID():
			return nil
		case owner != 0:
			return fmt.Errorf("%w: %s", ErrClaimed, who)
		}
		// Nobody's: somebody loaded a saved ruleset with it.
		if err := removeTable(g.conn, claimTable); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return fmt.Errorf("%w: it came between", ErrClaimed)
}

// claimant returns the port of the socket that owns the claim, and what it says
// of itself.
func (g *Gate) claimant() (owner uint32, who string, err error) {
	m, err := g.conn.get(message(unix.NFT_MSG_GETTABLE, 0, claimTable.body()))
	if err != nil {
		return 0, "", err
	}
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case tableOwnerPort:
			owner = ad.Uint32()
		case tableUserdata:
			who, _, _ = strings.Cut(parseComment(ad.Bytes()), ";")
		}
	})
	return owner, who, err
}

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Watch tells when another program changed a ruleset, whichever it was: whether
// the gate was hit is for Check to say.
type Watch struct {
	conn    *netlink.Conn
	reasons chan string
}

// Watch subscribes to the transactions of all but this Gate. They are kept from
// now on for Run to read.
func (g *Gate) Watch() (*Watch, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: g.cfg.Netns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	filter, err := othersTransactions(g.conn.PID())
	if err == nil {
		err = c.SetBPF(filter)
	}
	if err == nil {
		err = c.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to nf_tables: %w", err), c.Close())
	}
	return &Watch{conn: c, reasons: make(chan string, 1)}, nil
}

// othersTransactions passes the message that ends each transaction
// (NFT_MSG_NEWGEN), the only one that comes alone: others are packed into one
// datagram and may hide behind an element's. It tells who committed, by the
// port of the netlink socket, so that own transactions can be dropped.
func othersTransactions(ownPort uint32) ([]bpf.RawInstruction, error) {
	const newGen = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	// Of struct nlmsghdr. BPF loads in network byte order, netlink is in the
	// host's.
	const typeOffset, portOffset = 4, 12
	typ := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, newGen))
	port := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, ownPort))
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: typeOffset, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(typ), SkipTrue: 3},
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return program, nil
}

// Reasons yields who changed a ruleset, in words. While one waits to be taken,
// others are dropped: one look at the kernel answers all of them.
func (w *Watch) Reasons() <-chan string { return w.reasons }

// Run reads until ctx is done or Close is called, and returns nil then.
func (w *Watch) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := w.conn.Receive()
		switch {
		case err == nil:
			for _, m := range messages {
				w.report(author(m))
			}
		case errors.Is(err, unix.ENOBUFS):
			w.report("more changes to rulesets than could be followed")
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return nil
		default:
			return fmt.Errorf("watch nf_tables: %w", err)
		}
	}
}

func (w *Watch) report(reason string) {
	select {
	case w.reasons <- reason:
	default:
	}
}

// Close ends the subscription.
func (w *Watch) Close() error {
	if err := w.conn.Close(); err != nil {
		return fmt.Errorf("close netfilter socket: %w", err)
	}
	return nil
}

// author says who committed a transaction. Programs name themselves: the name is
// quoted.
func author(m netlink.Message) string {
	const unknown = "another program changed a ruleset"
	ad, err := decoder(m)
	if err != nil {
		return unknown
	}
	var name string
	var pid uint32
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_NAME:
			name = ad.String()
		case unix.NFTA_GEN_PROC_PID:
			pid = ad.Uint32()
		}
	}
	if ad.Err() != nil || pid == 0 {
		return unknown
	}
	return fmt.Sprintf("%q (process %d) changed a ruleset", name, pid)
}

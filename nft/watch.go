package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Watch tells when another program changed a ruleset, whichever it was: whether
// the gate was hit is for Check to say. For members it is said here.
type Watch struct {
	conn    *netlink.Conn
	table   tableID
	sets    []string
	changes chan Change
}

// Change is one or more transactions of other programs.
type Change struct {
	// Process is what the program calls itself, as it likes: quote it. It and
	// PID, which is its thread, are of the last transaction: "" and 0 if the
	// kernel did not say.
	Process string
	PID     int
	// Members is true if elements of the gate's sets were among what changed:
	// Sync tells which. What was packed behind another table's is not seen.
	Members bool
	// Lost is true if more came than could be followed: anything may have
	// changed, and Members is true.
	Lost bool
}

func (c Change) String() string {
	what := "a ruleset"
	if c.Members {
		what = "the gate's members"
	}
	switch {
	case c.Lost:
		return "more changes to rulesets than could be followed"
	case c.PID == 0:
		return "another program changed " + what
	}
	return fmt.Sprintf("%q (process %d) changed %s", c.Process, c.PID, what)
}

// Watch subscribes to the transactions of all but this Gate. They are kept from
// now on for Run to read. After a Reconfigure to or from sets of the
// administrator's, make another.
func (g *Gate) Watch() (*Watch, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: g.cfg.Netns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	filter, err := othersTransactions(g.conn.PID(), g.table.name)
	if err == nil {
		err = c.SetBPF(filter)
	}
	if err == nil {
		err = c.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to nf_tables: %w", err), c.Close())
	}
	four, six, net := g.cfg.memberSets()
	return &Watch{conn: c, table: g.table, sets: []string{four, six, net}, changes: make(chan Change, 1)}, nil
}

// Types of messages, as in struct nlmsghdr.
const (
	newGen         = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	newElement     = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM
	deletedElement = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM
)

// othersTransactions passes the message that ends each transaction
// (NFT_MSG_NEWGEN), the only one that comes alone: others are packed into one
// datagram and may hide behind an element's. It tells who committed, by the
// port of the netlink socket, so that own transactions can be dropped. Elements
// pass if the first of a datagram is in the table: others' may be very many.
func othersTransactions(ownPort uint32, table string) ([]bpf.RawInstruction, error) {
	// Of struct nlmsghdr, and the value of the first attribute behind struct
	// nfgenmsg. BPF loads in network byte order, netlink is in the host's.
	const typeOffset, portOffset, nameOffset = 4, 12, 24
	typ := func(t uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, t)))
	}
	port := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, ownPort))
	name := []byte(table + "\x00")
	name = name[:min(len(name), 32)] // jumps are short; Run looks at the rest
	drop := func(at int) uint8 { return uint8(7 + 2*len(name) - at - 1) }
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: drop(1)},
		bpf.LoadAbsolute{Off: typeOffset, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typ(newGen), SkipTrue: drop(3) - 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typ(newElement), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typ(deletedElement), SkipTrue: drop(5)},
	}
	for i, b := range name {
		program = append(program,
			bpf.LoadAbsolute{Off: uint32(nameOffset + i), Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(b), SkipTrue: drop(len(program) + 1)})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: 1<<32 - 1}, bpf.RetConstant{Val: 0}))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}

// Changes yields what others did. While one waits to be taken, others are merged
// into it: one look at the kernel answers all of them.
func (w *Watch) Changes() <-chan Change { return w.changes }

// Run reads until ctx is done or Close is called, and returns nil then.
func (w *Watch) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	members := false // in the transaction whose end is still to come
	for {
		messages, err := w.conn.Receive()
		switch {
		case err == nil:
			for _, m := range messages {
				if m.Header.Type == newGen {
					c := author(m)
					c.Members, members = members, false
					w.report(c)
				} else {
					members = members || w.member(m)
				}
			}
		case errors.Is(err, unix.ENOBUFS):
			w.report(Change{Lost: true, Members: true})
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return nil
		default:
			return fmt.Errorf("watch nf_tables: %w", err)
		}
	}
}

// report is called by Run alone: once the channel is empty, it stays so.
func (w *Watch) report(c Change) {
	select {
	case before := <-w.changes:
		c.Members = c.Members || before.Members
		c.Lost = c.Lost || before.Lost
	default:
	}
	w.changes <- c
}

// member says whether m is about an element of the gate's sets.
func (w *Watch) member(m netlink.Message) bool {
	if m.Header.Type != newElement && m.Header.Type != deletedElement {
		return false
	}
	var table, set string
	err := decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = ad.String()
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = ad.String()
		}
	})
	return err == nil && m.Data[0] == w.table.family && table == w.table.name && set != "" && slices.Contains(w.sets, set)
}

// Close ends the subscription.
func (w *Watch) Close() error {
	if err := w.conn.Close(); err != nil {
		return fmt.Errorf("close netfilter socket: %w", err)
	}
	return nil
}

// author says who committed a transaction, if the kernel does.
func author(m netlink.Message) Change {
	var c Change
	err := decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_NAME:
			c.Process = ad.String()
		case unix.NFTA_GEN_PROC_PID:
			c.PID = int(ad.Uint32())
		}
	})
	if err != nil {
		return Change{}
	}
	return c
}

package nft

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	tableHandle   = 4  // NFTA_TABLE_HANDLE
	tableUserdata = 6  // NFTA_TABLE_USERDATA
	chainUserdata = 12 // NFTA_CHAIN_USERDATA
	setHandle     = 16 // NFTA_SET_HANDLE

	tableOwnerPort = 7 // NFTA_TABLE_OWNER

	tableOwner   = 2 // NFT_TABLE_F_OWNER, Linux 5.12
	tablePersist = 4 // NFT_TABLE_F_PERSIST, Linux 6.9
)

// attributes is the body of an nf_tables message: struct nfgenmsg and netlink
// attributes behind it. Numbers are in network byte order.
type attributes []byte

// nfgenmsg starts a body for a family. What resource is depends on the message: mostly 0.
func nfgenmsg(family byte, resource uint16) attributes {
	return attributes{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
}

// tableID names a table.
type tableID struct {
	family byte // NFPROTO_*
	name   string
}

// families are NFPROTO_* by the names of nft(8).
var families = map[string]byte{"inet": unix.NFPROTO_INET, "ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6}

// own is the gate's own table.
var own = tableID{unix.NFPROTO_INET, Table}

func (t tableID) String() string {
	for name, family := range families {
		if family == t.family {
			return "table " + name + " " + t.name
		}
	}
	return "table of unknown family " + t.name
}

// body starts one with the table's name: it is attribute 1 of every object, as
// it is NFTA_TABLE_NAME.
func (t tableID) body() attributes { return t.appendBody(nil) }

func (t tableID) appendBody(a attributes) attributes {
	a = append(a, nfgenmsg(t.family, 0)...)
	a.string(unix.NFTA_TABLE_NAME, t.name)
	return a
}

// header appends a struct nlattr for a value of size bytes.
func (a *attributes) header(typ uint16, size int) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(unix.SizeofNlAttr+size))
	*a = binary.NativeEndian.AppendUint16(*a, typ)
}

func (a *attributes) pad() {
	for len(*a)%unix.NLA_ALIGNTO != 0 {
		*a = append(*a, 0)
	}
}

func (a *attributes) bytes(typ uint16, value []byte) {
	a.header(typ, len(value))
	*a = append(*a, value...)
	a.pad()
}

func (a *attributes) string(typ uint16, value string) {
	a.header(typ, len(value)+1)
	*a = append(*a, value...)
	*a = append(*a, 0)
	a.pad()
}

func (a *attributes) uint32(typ uint16, value uint32) {
	a.header(typ, 4)
	*a = binary.BigEndian.AppendUint32(*a, value)
}

func (a *attributes) uint64(typ uint16, value uint64) {
	a.header(typ, 8)
	*a = binary.BigEndian.AppendUint64(*a, value)
}

// open starts a nested attribute; close, given what open returned, ends it.
func (a *attributes) open(typ uint16) int {
	at := len(*a)
	a.header(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (a *attributes) close(at int) {
	binary.NativeEndian.PutUint16((*a)[at:], uint16(len(*a)-at))
}

// message is an nf_tables request.
func message(kind uint16, flags netlink.HeaderFlags, body attributes) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: body,
	}
}

// batchEdge is NFNL_MSG_BATCH_BEGIN or NFNL_MSG_BATCH_END: what lies between
// is one transaction of the nf_tables subsystem.
func batchEdge(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	}
}

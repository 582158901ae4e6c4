package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig = 1  // CTA_TUPLE_ORIG
	ctaID        = 12 // CTA_ID
	ctaZone      = 18 // CTA_ZONE
	ctaFilter    = 25 // CTA_FILTER, Linux 5.8

	ctaTupleIP    = 1 // CTA_TUPLE_IP
	ctaTupleProto = 2 // CTA_TUPLE_PROTO

	ctaIPv4Source = 1 // CTA_IP_V4_SRC
	ctaIPv6Source = 3 // CTA_IP_V6_SRC

	ctaProtoNum        = 1 // CTA_PROTO_NUM
	ctaProtoSourcePort = 2 // CTA_PROTO_SRC_PORT
	ctaProtoDestPort   = 3 // CTA_PROTO_DST_PORT

	// Bits of CTA_FILTER_ORIG_FLAGS: which of the tuple count.
	ctaFilterOrigFlags = 1
	filterSource       = 1 << 0
	filterProtocol     = 1 << 3
	filterDestPort     = 1 << 5
)

// tracked is an entry of connection tracking as its client sees it.
type tracked struct {
	family   byte
	client   netip.AddrPort
	port     uint16
	protocol byte
	key      attributes // what names the entry when it is to be deleted
}

// tracked lists the TCP connections from these addresses to ports.
func (c *Cutter) tracked(from sources, ports []uint16) (list []tracked, err error) {
	list, err = c.dump(trackedFilter(from.cover, ports), from, ports)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		// A kernel that cannot filter lists all.
		list, err = c.dump(nil, from, ports)
	}
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("list connection tracking (CONFIG_NF_CT_NETLINK): %w: %w", ErrUnsupported, err)
	case err != nil:
		return nil, fmt.Errorf("list connection tracking: %w", err)
	}
	return list, nil
}

func (c *Cutter) dump(filter attributes, from sources, ports []uint16) (list []tracked, err error) {
	err = c.tracking.list(netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request},
		Data:   append(nfgenmsg(from.family(), 0), filter...),
	}, func(m netlink.Message) error {
		if from.cover.IsSingleIP() && !bytes.Contains(m.Data, from.cover.Addr().AsSlice()) {
			return nil // most, where the kernel cannot filter
		}
		t, err := parseTracked(m)
		if err == nil && t.protocol == unix.IPPROTO_TCP && from.match(t.client, t.port, ports) {
			list = append(list, t)
		}
		return nil
	})
	if errors.Is(err, errInterrupted) {
		err = nil
	}
	return list, err
}

// trackedFilter lets the kernel leave out most.
func trackedFilter(from netip.Prefix, ports []uint16) (a attributes) {
	flags := uint32(filterProtocol)
	tuple := a.open(ctaTupleOrig)
	// Not for IPv6: Linux 6.18 compares these addresses the wrong way round and
	// lists all entries but those that are asked for.
	if from.IsSingleIP() && from.Addr().Is4() {
		flags |= filterSource
		ip := a.open(ctaTupleIP)
		a.bytes(ctaIPv4Source, from.Addr().AsSlice())
		a.close(ip)
	}
	proto := a.open(ctaTupleProto)
	a.bytes(ctaProtoNum, []byte{unix.IPPROTO_TCP})
	if len(ports) == 1 {
		flags |= filterDestPort
		a.bytes(ctaProtoDestPort, binary.BigEndian.AppendUint16(nil, ports[0]))
	}
	a.close(proto)
	a.close(tuple)
	filter := a.open(ctaFilter)
	a.bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags))
	a.close(filter)
	return a
}

// untrackAll deletes entries.
func (c *Cutter) untrackAll(list []tracked) (n int, err error) {
	var failed []error
	for _, t := range list {
		switch err := c.untrack(t); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // it ran out meanwhile
			failed = append(failed, err)
		}
	}
	return n, errors.Join(failed...)
}

// untrack deletes an entry.
func (c *Cutter) untrack(t tracked) error {
	_, err := c.tracking.get(netlink.Message{
		Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(t.family, 0), t.key...),
	})
	if err != nil {
		return fmt.Errorf("delete tracked connection of %s: %w", t.client, err)
	}
	return nil
}

// parseTracked reads an entry. Its name is its original tuple, its zone and, so
// that another one of the same tuple stays, its number.
func parseTracked(m netlink.Message) (t tracked, err error) {
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		t.family = m.Data[0]
		switch ad.Type() {
		case ctaTupleOrig:
			t.key.bytes(ctaTupleOrig|unix.NLA_F_NESTED, ad.Bytes())
			t.parseTuple(ad)
		case ctaID, ctaZone:
			t.key.bytes(ad.Type(), ad.Bytes())
		}
	})
	return t, err
}

func (t *tracked) parseTuple(tuple *netlink.AttributeDecoder) {
	var source netip.Addr
	var port uint16
	nested(tuple, func(ad *netlink.AttributeDecoder) {
		of := ad.Type()
		nested(ad, func(part *netlink.AttributeDecoder) {
			switch {
			case of == ctaTupleIP && (part.Type() == ctaIPv4Source || part.Type() == ctaIPv6Source):
				source, _ = netip.AddrFromSlice(part.Bytes())
			case of == ctaTupleProto && part.Type() == ctaProtoNum:
				t.protocol = part.Uint8()
			case of == ctaTupleProto && part.Type() == ctaProtoSourcePort:
				port = part.Uint16()
			case of == ctaTupleProto && part.Type() == ctaProtoDestPort:
				t.port = part.Uint16()
			}
		})
	})
	t.client = netip.AddrPortFrom(source, port)
}

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var errShort = errors.New("nf_tables message without its header")

// decoder reads the attributes behind a message's struct nfgenmsg.
func decoder(m netlink.Message) (*netlink.AttributeDecoder, error) {
	const nfgenmsg = 4
	if len(m.Data) < nfgenmsg {
		return nil, errShort
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err != nil {
		return nil, fmt.Errorf("decode nf_tables message: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	return ad, nil
}

// parseElements returns the elements of one message (NFT_MSG_NEWSETELEM) whose
// keys are addresses.
func parseElements(m netlink.Message) ([]member, error) {
	ad, err := decoder(m)
	if err != nil {
		return nil, err
	}
	var set string
	var members []member
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = ad.String()
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					e := member{remaining: forever}
					list.Nested(e.parse)
					if e.key.IsValid() {
						members = append(members, e)
					}
				}
				return nil
			})
		}
	}
	for i := range members {
		members[i].set = set
	}
	if err := ad.Err(); err != nil {
		return nil, fmt.Errorf("decode elements: %w", err)
	}
	return members, nil
}

// parse reads one element. Without a timeout it stays for ever.
func (m *member) parse(ad *netlink.AttributeDecoder) error {
	var timeout, left time.Duration
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			ad.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					if key.Type() == unix.NFTA_DATA_VALUE {
						m.key, _ = netip.AddrFromSlice(key.Bytes())
					}
				}
				return nil
			})
		case unix.NFTA_SET_ELEM_TIMEOUT:
			timeout = duration(ad.Uint64())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			left = duration(ad.Uint64())
		}
	}
	if timeout > 0 {
		m.timeout, m.remaining = timeout, min(left, timeout)
	}
	return nil
}

// duration converts milliseconds, up to MaxTimeout.
func duration(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
}

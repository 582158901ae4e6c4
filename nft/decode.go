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

// decode calls each at every attribute behind a message's struct nfgenmsg.
func decode(m netlink.Message, each func(ad *netlink.AttributeDecoder)) error {
	const nfgenmsg = 4
	if len(m.Data) < nfgenmsg {
		return errShort
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err == nil {
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			each(ad)
		}
		err = ad.Err()
	}
	if err != nil {
		return fmt.Errorf("decode netfilter message of type %#x: %w", uint16(m.Header.Type), err)
	}
	return nil
}

// nested calls each at every attribute in the present one, which is nested.
func nested(ad *netlink.AttributeDecoder, each func(ad *netlink.AttributeDecoder)) {
	ad.Nested(func(in *netlink.AttributeDecoder) error {
		for in.Next() {
			each(in)
		}
		return nil
	})
}

// listed is an element as the kernel describes it.
type listed struct {
	member
	packets uint64 // of the counter that an element of a brake has
}

// parseElements returns the elements of one message (NFT_MSG_NEWSETELEM) whose
// keys are addresses.
func parseElements(m netlink.Message) (members []member, err error) {
	err = eachElement(m, func(e listed) { members = append(members, e.member) })
	return members, err
}

func eachElement(m netlink.Message, each func(listed)) error {
	var set string // it comes before the elements
	return decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = ad.String()
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			nested(ad, func(list *netlink.AttributeDecoder) {
				e := listed{member: member{set: set, remaining: forever}}
				if e.parse(list); e.key.IsValid() {
					each(e)
				}
			})
		}
	})
}

// parse reads the present attribute, one element. Without a timeout it stays for ever.
func (l *listed) parse(element *netlink.AttributeDecoder) {
	var timeout, left time.Duration
	nested(element, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			nested(ad, func(key *netlink.AttributeDecoder) {
				if key.Type() == unix.NFTA_DATA_VALUE {
					l.key, _ = netip.AddrFromSlice(key.Bytes())
				}
			})
		case unix.NFTA_SET_ELEM_TIMEOUT:
			timeout = duration(ad.Uint64())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			left = duration(ad.Uint64())
		case unix.NFTA_SET_ELEM_EXPR:
			l.packets = counted(ad)
		}
	})
	if timeout > 0 {
		l.timeout, l.remaining = timeout, min(left, timeout)
	}
}

// duration converts milliseconds, up to MaxTimeout.
func duration(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
}

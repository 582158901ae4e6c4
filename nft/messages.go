package nft

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Types of comments in an object's user data (libnftnl/udata.h). They are kept
// by the kernel for whoever lists the ruleset.
const (
	udataComment    = 0 // NFTNL_UDATA_{TABLE,CHAIN,RULE}_COMMENT
	udataSetComment = 7 // NFTNL_UDATA_SET_COMMENT
)

// comment encodes "relaygate: text" as user data: type, length, string.
func comment(typ byte, text string) []byte {
	text = "relaygate: " + text
	return append(append([]byte{typ, byte(len(text) + 1)}, text...), 0)
}

// parseComment is the reverse, for a type that is 0.
func parseComment(userdata []byte) string {
	if len(userdata) < 2 || userdata[0] != udataComment || len(userdata) < 2+int(userdata[1]) {
		return ""
	}
	text := strings.TrimRight(string(userdata[2:2+int(userdata[1])]), "\x00")
	return strings.TrimPrefix(text, "relaygate: ")
}

// chunk is how many elements one message carries. The list of elements is one
// attribute with a 16-bit length; an IPv6 element takes 52 bytes.
const chunk = 1000

// setElement is one element as the kernel takes it.
type setElement struct {
	key                []byte
	flags              uint32        // NFT_SET_ELEM_*
	timeout, remaining time.Duration // 0 in sets without timeouts
}

// elementMessages appends what adds (NFT_MSG_NEWSETELEM) or deletes
// (NFT_MSG_DELSETELEM) elements of one set.
func elementMessages(batch []netlink.Message, kind uint16, table tableID, set string, elements []setElement) []netlink.Message {
	flags := netlink.Create
	if kind != unix.NFT_MSG_NEWSETELEM {
		flags = 0
	}
	for part := range slices.Chunk(elements, chunk) {
		body := table.appendBody(make(attributes, 0, 64+len(part)*60))
		body.string(unix.NFTA_SET_ELEM_LIST_SET, set)
		list := body.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range part {
			body.element(e)
		}
		body.close(list)
		batch = append(batch, message(kind, flags, body))
	}
	return batch
}

func (a *attributes) element(e setElement) {
	element := a.open(unix.NFTA_LIST_ELEM)
	if e.flags != 0 {
		a.uint32(unix.NFTA_SET_ELEM_FLAGS, e.flags)
	}
	key := a.open(unix.NFTA_SET_ELEM_KEY)
	a.bytes(unix.NFTA_DATA_VALUE, e.key)
	a.close(key)
	if e.timeout > 0 {
		a.uint64(unix.NFTA_SET_ELEM_TIMEOUT, milliseconds(e.timeout))
		a.uint64(unix.NFTA_SET_ELEM_EXPIRATION, milliseconds(e.remaining))
	}
	a.close(element)
}

// milliseconds rounds up, so that remaining never exceeds timeout and neither
// becomes zero.
func milliseconds(d time.Duration) uint64 {
	return uint64((d + time.Millisecond - 1) / time.Millisecond)
}

// memberMessages is elementMessages for members of all sets, which must be
// sorted by set.
func memberMessages(batch []netlink.Message, kind uint16, table tableID, members []member) []netlink.Message {
	for len(members) > 0 {
		n := sameSet(members)
		elements := make([]setElement, n)
		keys := make([]byte, 0, n*16) // of all: one allocation
		for i, m := range members[:n] {
			at := len(keys)
			keys, _ = m.key.AppendBinary(keys) // an address without a zone: its bytes
			elements[i] = setElement{key: keys[at:], timeout: m.timeout, remaining: m.remaining}
		}
		batch = elementMessages(batch, kind, table, members[0].set, elements)
		members = members[n:]
	}
	return batch
}

// sameSet counts the first members that are in one set.
func sameSet(members []member) int {
	n := 1
	for n < len(members) && members[n].set == members[0].set {
		n++
	}
	return n
}

// listElements asks for all elements of a set, getElement for one.
func listElements(table tableID, set string) netlink.Message {
	body := table.body()
	body.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	return message(unix.NFT_MSG_GETSETELEM, 0, body)
}

func getElement(table tableID, m member) netlink.Message {
	key := []setElement{{key: m.key.AsSlice()}}
	return elementMessages(nil, unix.NFT_MSG_GETSETELEM, table, m.set, key)[0]
}

// tableMessages make sure that a table is new and empty. The first message is for the
// second, which must not fail where there is none.
func tableMessages(table tableID) []netlink.Message {
	name, body := table.body(), table.body()
	body.bytes(tableUserdata, comment(udataComment, "who may relay; rebuilt when changed"))
	return []netlink.Message{
		message(unix.NFT_MSG_NEWTABLE, netlink.Create, name),
		message(unix.NFT_MSG_DELTABLE, 0, name),
		message(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Echo, body),
	}
}

// messages appends the ruleset to a batch, for an empty table. The kernel
// echoes each object but the elements, with its handle.
func (r ruleset) messages(batch []netlink.Message, table tableID) ([]netlink.Message, error) {
	for i, s := range r.sets {
		batch = append(batch, message(unix.NFT_MSG_NEWSET, netlink.Create|netlink.Echo, s.body(table, uint32(i+1))))
		batch = elementMessages(batch, unix.NFT_MSG_NEWSETELEM, table, s.name, s.elements)
	}
	for _, c := range r.chains {
		batch = append(batch, message(unix.NFT_MSG_NEWCHAIN, netlink.Create|netlink.Echo, c.body(table)))
	}
	for _, c := range r.chains {
		for i, rule := range c.rules {
			body, err := rule.body(table, c.name)
			if err != nil {
				return nil, fmt.Errorf("encode rule %d of chain %s: %w", i+1, c.name, err)
			}
			batch = append(batch, message(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append|netlink.Echo, body))
		}
	}
	return batch, nil
}

// body encodes the set. The id names it within its transaction.
func (s set) body(table tableID, id uint32) attributes {
	a := table.body()
	a.string(unix.NFTA_SET_NAME, s.name)
	a.uint32(unix.NFTA_SET_FLAGS, s.flags)
	a.uint32(unix.NFTA_SET_KEY_TYPE, s.key.id)
	a.uint32(unix.NFTA_SET_KEY_LEN, s.key.size)
	a.uint32(unix.NFTA_SET_ID, id)
	if s.timeout > 0 {
		a.uint64(unix.NFTA_SET_TIMEOUT, milliseconds(s.timeout))
	}
	if s.size > 0 {
		desc := a.open(unix.NFTA_SET_DESC)
		a.uint32(unix.NFTA_SET_DESC_SIZE, s.size)
		a.close(desc)
	}
	a.bytes(unix.NFTA_SET_USERDATA, comment(udataSetComment, s.comment))
	return a
}

func (c chain) body(table tableID) attributes {
	a := table.body()
	a.string(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		hook := a.open(unix.NFTA_CHAIN_HOOK)
		a.uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.number)
		a.uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
		a.close(hook)
		a.uint32(unix.NFTA_CHAIN_POLICY, uint32(expr.VerdictAccept))
		a.string(unix.NFTA_CHAIN_TYPE, c.hook.kind)
	}
	a.bytes(chainUserdata, comment(udataComment, c.comment))
	return a
}

func (r rule) body(table tableID, chain string) (attributes, error) {
	a := table.body()
	a.string(unix.NFTA_RULE_CHAIN, chain)
	list := a.open(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r.expressions {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, fmt.Errorf("%T: %w", e, err)
		}
		a.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	}
	a.close(list)
	a.bytes(unix.NFTA_RULE_USERDATA, comment(udataComment, r.comment))
	return a, nil
}

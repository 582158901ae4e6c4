package nft

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
)

// MaxTimeout bounds the life of an element.
const MaxTimeout = 366 * 24 * time.Hour

// tick is the kernel's coarsest clock (HZ=100). An element that lives shorter
// would round to a timeout of zero, which means for ever.
const tick = 10 * time.Millisecond

// ErrElement says that an element may not stand in the gate.
var ErrElement = errors.New("element refused")

// Element is a member: an address that may relay for a while.
type Element struct {
	Addr netip.Addr
	// Timeout is the whole life that a listing shows, Remaining what is left
	// of it: 0 < Remaining ≤ Timeout ≤ MaxTimeout. The kernel counts in
	// milliseconds at best; both are rounded up to 10 ms at least.
	Timeout, Remaining time.Duration
}

// member is an Element by the set and the key that stand for it.
type member struct {
	set                string
	key                netip.Addr
	timeout, remaining time.Duration
}

// member checks e and finds its place. Errors wrap ErrElement.
func (c *Config) member(e Element) (member, error) {
	set, key, err := c.place(e.Addr)
	if err != nil {
		return member{}, err
	}
	if e.Remaining <= 0 || e.Remaining > e.Timeout || e.Timeout > MaxTimeout {
		return member{}, fmt.Errorf("%w: %s with %v left of %v: want 0 < left ≤ life ≤ %v",
			ErrElement, e.Addr, e.Remaining, e.Timeout, MaxTimeout)
	}
	return member{set, key, max(e.Timeout, tick), max(e.Remaining, tick)}, nil
}

// members checks and places elements. Of several for one key the longest
// counts. What is refused is left out, and the error, which wraps ErrElement,
// tells all of them.
func (c *Config) members(elements []Element) ([]member, error) { return c.appendMembers(nil, elements) }

// appendMembers is members in list's memory; list is empty.
func (c *Config) appendMembers(list []member, elements []Element) ([]member, error) {
	var refused []error
	list = slices.Grow(list, len(elements))
	for _, e := range elements {
		m, err := c.member(e)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		list = append(list, m)
	}
	if len(list) > 1 {
		slices.SortFunc(list, longestFirst)
		list = slices.CompactFunc(list, sameKey)
	}
	return list, errors.Join(refused...)
}

// living is members, without those whose time is over.
func (c *Config) living(elements []Element) ([]member, error) {
	left := make([]Element, 0, len(elements))
	for _, e := range elements {
		if e.Remaining > 0 {
			left = append(left, e)
		}
	}
	return c.members(left)
}

func longestFirst(a, b member) int {
	return cmp.Or(strings.Compare(a.set, b.set), a.key.Compare(b.key), cmp.Compare(b.remaining, a.remaining))
}

func sameKey(a, b member) bool { return a.set == b.set && a.key == b.key }

// place returns the set and the key for an address. IPv4-mapped addresses are
// IPv4 (packets from them are).
func (c *Config) place(addr netip.Addr) (set string, key netip.Addr, err error) {
	addr = addr.Unmap()
	four, six, net := c.memberSets()
	set, key = six, addr
	switch {
	case !addr.IsValid():
		return "", addr, fmt.Errorf("%w: no address", ErrElement)
	case addr.Zone() != "":
		return "", addr, fmt.Errorf("%w: %s is an address of one link", ErrElement, addr)
	case addr.Is4():
		set = four
	case c.IPv6Prefix == 64:
		if wide := authz.Widen(addr, 64); !wide.IsSingleIP() {
			set, key = net, wide.Addr()
		}
	}
	if set == "" {
		return "", addr, fmt.Errorf("%w: no set is configured for %s", ErrElement, addr)
	}
	return set, key, nil
}

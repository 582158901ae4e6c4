package bpf

import (
	"errors"
	"fmt"
	"slices"
)

// layout says where the objects of a library keep what the programs read, as
// offsets in bytes. It differs between versions.
type layout struct {
	// random is that of the server random (RFC 8446 §4.1.3), in the object or,
	// unless pointer is 0, behind the pointer that is there.
	random, pointer uint32
	// role is that of a number of 32 bits, which is 1 at the server's end.
	role uint32
}

// Accessors names the exported functions whose code tells the layout of a library's
// objects.
func Accessors(kind LibraryKind) []string {
	switch kind {
	case OpenSSL:
		return []string{"SSL_get_server_random", "SSL_is_server"}
	case GnuTLS:
		return []string{"gnutls_session_get_random"}
	}
	return nil
}

// fieldsFrom is the least offset of a random: what code adds below that steps
// through data.
const fieldsFrom = 0x40

// layout reads in the code of the accessors where the objects keep things: they
// do little but form the addresses. Code that leaves a choice is an error, for a
// place that a client can write to would let it pass for another.
func (c *machineCode) layout(kind LibraryKind) (l layout, err error) {
	switch kind {
	case OpenSSL:
		if l.random, l.pointer, err = randomOpenSSL(c.operands("SSL_get_server_random")); err == nil {
			l.role, err = roleOpenSSL(c.operands("SSL_is_server"))
		}
	case GnuTLS:
		// The role is the first field of all: GNUTLS_SERVER or GNUTLS_CLIENT.
		l.random, err = randomGnuTLS(c.operands("gnutls_session_get_random"))
	default:
		err = errors.New("the library is unknown")
	}
	if err != nil {
		return layout{}, fmt.Errorf("the layout of its objects is not known (BoringSSL's is not): %w", err)
	}
	return l, nil
}

// offsets lists the different ones of a use, from a least one on.
func offsets(list []operand, u use, least uint32) []uint32 {
	var all []uint32
	for _, o := range list {
		if o.use == u && o.offset >= least && !slices.Contains(all, o.offset) {
			all = append(all, o.offset)
		}
	}
	return all
}

// randomOpenSSL reads SSL_get_server_random, which copies from one address. In
// OpenSSL 1.1.1, and LibreSSL, a pointer is loaded for it.
func randomOpenSSL(list []operand) (random, pointer uint32, err error) {
	addresses := offsets(list, address, fieldsFrom)
	if len(addresses) != 1 {
		return 0, 0, fmt.Errorf("SSL_get_server_random forms the addresses %#x, and not one", addresses)
	}
	random = addresses[0]
	// The compiler may also load the random's first bytes.
	pointers := slices.DeleteFunc(offsets(list, load64, fieldsFrom), func(o uint32) bool { return o == random })
	switch len(pointers) {
	case 0:
		return random, 0, nil
	case 1:
		return random, pointers[0], nil
	}
	return 0, 0, fmt.Errorf("SSL_get_server_random loads from %#x, and not one pointer", pointers)
}

// roleOpenSSL reads SSL_is_server, which returns one number. From 3.2 on it also
// looks at the first field, which is the kind of the object.
func roleOpenSSL(list []operand) (uint32, error) {
	numbers := offsets(list, load32, 1)
	if len(numbers) != 1 {
		return 0, fmt.Errorf("SSL_is_server loads from %#x, and not one number", numbers)
	}
	return numbers[0], nil
}

// randomGnuTLS reads gnutls_session_get_random, which tells of the client's random
// and of the server's, which is behind it.
func randomGnuTLS(list []operand) (uint32, error) {
	addresses := offsets(list, address, fieldsFrom)
	if len(addresses) != 2 {
		return 0, fmt.Errorf("gnutls_session_get_random forms the addresses %#x, and not two", addresses)
	}
	client, server := slices.Min(addresses), slices.Max(addresses)
	if server-client != randomBytes {
		return 0, fmt.Errorf("gnutls_session_get_random forms addresses that are not side by side: %#x", addresses)
	}
	return server, nil
}

// randomBytes is the length of a random.
const randomBytes = 32

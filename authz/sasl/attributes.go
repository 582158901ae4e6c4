package sasl

import (
	"bytes"
	"strings"
)

// scram is RFC 5802 §5 and §7 for every hash: client-first, client-final, and
// an empty message where the server's final one came as a challenge.
func (x *Exchange) scram(message []byte) {
	switch {
	case x.messages == 1 && len(message) == 0:
		x.messages = 0 // an empty initial response
	case x.messages == 1:
		x.scramFirst(message)
	case x.messages == 2:
		x.ready = true
		if !bytes.HasPrefix(message, []byte("c=")) || !bytes.Contains(message, []byte(",p=")) {
			x.malformed = true
		}
	case len(message) > 0 || x.messages > 3:
		x.malformed = true
	}
}

// scramFirst reads gs2-header "n=" saslname ",r=" nonce.
func (x *Exchange) scramFirst(message []byte) {
	binding, rest, _ := bytes.Cut(message, []byte{','})
	authzid, rest, ok := bytes.Cut(rest, []byte{','})
	if !ok || len(binding) == 0 || strings.IndexByte("nyp", binding[0]) < 0 {
		x.malformed = true
		return
	}
	name, rest, _ := bytes.Cut(rest, []byte{','})
	user, ok := bytes.CutPrefix(name, []byte("n="))
	if !ok || !bytes.HasPrefix(rest, []byte("r=")) {
		x.malformed = true
		return
	}
	x.name(x.saslname(user))
	x.gs2Authzid(authzid)
}

// oauthBearer is RFC 7628 §3.1: gs2-header ^A pairs ^A. The user, if shown, is
// the authorization identity of the header: the token holds the other.
// After an error the client sends one ^A (RFC 7628 §3.2.3).
func (x *Exchange) oauthBearer(message []byte) {
	x.once()
	header, pairs, ok := bytes.Cut(message, []byte{1})
	binding, rest, comma := bytes.Cut(header, []byte{','})
	if !ok || !comma || len(binding) == 0 || !bytes.HasSuffix(rest, []byte{','}) ||
		!bytes.Contains(pairs, []byte("auth=")) {
		x.malformed = true
		return
	}
	if authzid, ok := bytes.CutPrefix(rest[:len(rest)-1], []byte("a=")); ok {
		x.name(x.saslname(authzid))
	}
}

// gs2Authzid reads the optional "a=" saslname of a gs2-header (RFC 5801 §4).
func (x *Exchange) gs2Authzid(field []byte) {
	if len(field) == 0 {
		return
	}
	id, ok := bytes.CutPrefix(field, []byte("a="))
	if !ok || len(id) == 0 {
		x.malformed = true
		return
	}
	x.authorize(x.saslname(id))
}

// saslname undoes "=2C" and "=3D" in place (RFC 5801 §4).
func (x *Exchange) saslname(b []byte) []byte {
	out := b[:0]
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '=' {
			switch {
			case bytes.HasPrefix(b[i:], []byte("=2C")):
				c = ','
			case bytes.HasPrefix(b[i:], []byte("=3D")):
				c = '='
			default:
				x.malformed = true
				return nil
			}
			i += 2
		}
		out = append(out, c)
	}
	return out
}

// digestMD5 is RFC 2831 §2.1.2: directives, of which username and authzid
// matter. A second, empty message answers the server's rspauth (§2.1.3).
func (x *Exchange) digestMD5(message []byte) {
	switch {
	case x.messages == 1 && len(message) == 0:
		x.messages = 0 // an empty initial response
		return
	case x.messages > 1:
		x.malformed = x.malformed || len(message) > 0
		return
	}
	x.ready = true
	var user, authzid, response []byte
	for len(message) > 0 {
		var key, value []byte
		var ok bool
		if key, value, message, ok = directive(message); !ok {
			x.malformed = true
			return
		}
		switch {
		case bytes.EqualFold(key, []byte("username")) && user == nil:
			user = value
		case bytes.EqualFold(key, []byte("authzid")) && authzid == nil:
			authzid = value
		case bytes.EqualFold(key, []byte("response")) && response == nil:
			response = value
		case bytes.EqualFold(key, []byte("username")), bytes.EqualFold(key, []byte("authzid")):
			x.malformed = true // given twice
		}
	}
	if !HexDigest(response) {
		x.malformed = true
	}
	x.name(user)
	if len(authzid) > 0 {
		x.authorize(authzid)
	}
}

// directive cuts key "=" ( token / quoted-string ) and the comma behind it off
// b. A quoted value is unescaped in place.
func directive(b []byte) (key, value, rest []byte, ok bool) {
	key, rest, ok = bytes.Cut(bytes.TrimLeft(b, " ,"), []byte{'='})
	if !ok || len(key) == 0 {
		return nil, nil, nil, false
	}
	if len(rest) == 0 || rest[0] != '"' {
		value, rest, _ = bytes.Cut(rest, []byte{','})
		return key, value, rest, true
	}
	value = rest[:0]
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && i+1 < len(rest):
			i++
			value = append(value, rest[i])
		case c == '"':
			rest = bytes.TrimLeft(rest[i+1:], " ")
			if len(rest) > 0 && rest[0] != ',' {
				return nil, nil, nil, false
			}
			return key, value, bytes.TrimLeft(rest, ","), true
		default:
			value = append(value, c)
		}
	}
	return nil, nil, nil, false
}

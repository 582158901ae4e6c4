package engine

// hellos is the beginning of a handshake.
type hellos struct {
	startTLS bool // it was asked for in clear text
	client   clientHello
	server   serverHello
}

// serverHello reads what a server sends in answer to a ClientHello, until it has shaken
// hands. A server that goes on in clear text instead would be told of with a hole: some
// do, when a handshake has failed, and take another STARTTLS then (Courier, Cyrus).
type serverHello struct {
	head    [helloHead]byte
	n       int  // of head
	skip    int  // bytes of a record that are still to be passed over
	retried bool // a HelloRetryRequest came
}

// Records (RFC 8446 §5.1): five bytes, and then what there is in them. A warning is an
// alert of two bytes (RFC 5246 §7.2); a ServerHello begins with its type, length,
// version and random (RFC 8446 §4.1.3).
const (
	recordHead   = 5
	warningBytes = recordHead + 2
	helloHead    = recordHead + 1 + 3 + 2 + 32

	recordChangeCipherSpec = 0x14
	recordAlert            = 0x15
	recordHandshake        = 0x16

	majorVersion = 0x03

	levelWarning       = 1
	messageServerHello = 2
)

// retryRandom begins the random of a HelloRetryRequest.
const retryRandom = "\xcf\x21\xad\x74\xe5\x9a\x61\x11"

// read takes what the server says next. It says whether the ServerHello has come, and
// whether it still can.
func (h *serverHello) read(b []byte) (found, possible bool) {
	for len(b) > 0 {
		if h.skip > 0 {
			n := min(h.skip, len(b))
			h.skip -= n
			b = b[n:]
			continue
		}
		h.head[h.n] = b[0]
		h.n++
		b = b[1:]
		if h.n < recordHead {
			continue
		}
		found, possible = h.record(int(h.head[3])<<8 | int(h.head[4]))
		if found || !possible {
			return found, possible
		}
	}
	return false, true
}

// record looks at what is there of a record of so many bytes.
func (h *serverHello) record(size int) (found, possible bool) {
	if h.head[1] != majorVersion {
		return false, false
	}
	pass := func(known int) (bool, bool) {
		h.n, h.skip = 0, recordHead+size-known
		return false, h.skip >= 0
	}
	switch kind := h.head[0]; {
	case kind == recordChangeCipherSpec && h.retried: // RFC 8446 appendix D.4
		return pass(recordHead)
	case kind == recordAlert:
		if h.n < warningBytes {
			return false, true
		}
		if h.head[recordHead] != levelWarning {
			return false, false
		}
		return pass(warningBytes)
	case kind != recordHandshake || size < helloHead-recordHead:
		return false, false
	case h.n < helloHead:
		return false, true
	case h.head[recordHead] != messageServerHello:
		return false, false
	case string(h.head[helloHead-32:][:len(retryRandom)]) != retryRandom:
		return true, true
	case h.retried:
		return false, false
	}
	h.retried = true
	return pass(helloHead)
}

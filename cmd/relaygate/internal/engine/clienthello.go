package engine

// clientHello reads what a client begins TLS with, and keeps nothing of it. Early data
// (RFC 8446 §2.3) is read by the server's library before the ServerHello need have left
// the host: a client that keeps its window closed has it wait. So nobody tells of it,
// and what is told then comes behind a hole.
type clientHello struct {
	// early: it announces early data. whole: all of it came, and nothing of it was wrong.
	early, whole bool

	wrong  bool
	head   [recordHead]byte
	n      int // of head
	record int // bytes that are left of the record
	left   int // of the message
	field  field
	number int // what came of a number
	digits int // so many bytes of it
	skip   int // bytes of a vector, or of no interest
}

// field is a number in a ClientHello (RFC 8446 §4.1.2).
type field uint8

const (
	messageType field = iota
	messageLength
	sessionLength
	cipherSuitesLength
	compressionLength
	extensionsLength
	extensionType
	extensionLength
)

var digitsOf = [...]int{
	messageType: 1, messageLength: 3, sessionLength: 1, cipherSuitesLength: 2, compressionLength: 1,
	extensionsLength: 2, extensionType: 2, extensionLength: 2,
}

const (
	messageClientHello = 1
	versionAndRandom   = 2 + 32
	extensionEarlyData = 42 // RFC 8446 §4.2
)

// begin takes the first bytes in which TLS was recognised. Their first may have come by
// itself before.
func (h *clientHello) begin(b []byte) {
	if len(b) > 0 && b[0] == majorVersion {
		h.add([]byte{recordHandshake})
	}
	h.add(b)
}

// add takes what the client says next.
func (h *clientHello) add(b []byte) {
	for _, c := range b {
		switch {
		case h.whole || h.wrong:
			return
		case h.record > 0:
			h.record--
			h.take(c)
		default:
			h.head[h.n] = c
			if h.n++; h.n == recordHead {
				h.n, h.record = 0, int(h.head[3])<<8|int(h.head[4])
				h.wrong = h.head[0] != recordHandshake || h.record == 0 // RFC 8446 §5.1
			}
		}
	}
}

// take takes a byte of the message.
func (h *clientHello) take(c byte) {
	if h.field > messageLength {
		h.left--
	}
	if h.skip > 0 {
		h.skip--
	} else {
		h.number = h.number<<8 | int(c)
		if h.digits++; h.digits == digitsOf[h.field] {
			h.next(h.number)
			h.number, h.digits = 0, 0
		}
	}
	if h.field > messageLength && h.left == 0 {
		// TLS 1.2 can do without extensions.
		ends := h.field == extensionsLength || h.field == extensionType
		h.whole = ends && h.skip == 0 && h.digits == 0 && !h.wrong
		h.wrong = !h.whole
	}
}

// next goes on behind a number.
func (h *clientHello) next(number int) {
	switch h.field {
	case messageType:
		h.wrong = number != messageClientHello
	case messageLength:
		h.left, h.skip = number, versionAndRandom
	case sessionLength, cipherSuitesLength, compressionLength:
		h.skip = number
	case extensionsLength:
		h.wrong = number != h.left
	case extensionType:
		h.early = h.early || number == extensionEarlyData
	case extensionLength:
		h.skip = number
		h.field = extensionsLength
	}
	h.field++
}

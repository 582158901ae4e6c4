package imap

import "slices"

// multiplex reads what Dovecot 2.4 sends to a trusted proxy that asked for it in ID
// ("x-multiplex"): behind the line "* MULTIPLEX 0" its octets belong to several channels,
// of which number 0 is IMAP. A header comes first. Then a mark with a zero and a number
// behind it changes the channel, and a mark with a one behind it stands for its first octet.
type multiplex struct {
	state   framing
	begun   int // octets of the header that came
	channel byte
	imap    []byte // what belongs to IMAP, of the last piece
}

// framing is what the next octet is.
type framing uint8

const (
	unframed framing = iota
	inHeader
	inChannel  // text of the present channel
	inMark     // the second octet of a mark, or text behind an octet that was none
	behindMark // what a mark says
	inNumber   // of a channel
)

const (
	frameMark   = "\x03\xfe"
	frameHeader = "\xff\xff\xff\xff\xff\x00\x02" + frameMark
)

// begins reports whether framing was announced and none of it has come.
func (m *multiplex) begins() bool { return m.state == inHeader && m.begun == 0 }

// next returns what of b belongs to IMAP, valid until the next call. It reports false if
// b is not framed so.
func (m *multiplex) next(b []byte) (imap []byte, ok bool) {
	m.imap = slices.Grow(m.imap[:0], len("\x03")+len(b)) // at once: what grows leaves a copy behind
	for _, c := range b {
		if !m.octet(c) {
			clear(m.imap)
			return nil, false
		}
	}
	return m.imap, true
}

func (m *multiplex) octet(c byte) bool {
	switch m.state {
	case inHeader:
		if c != frameHeader[m.begun] {
			return false
		}
		if m.begun++; m.begun == len(frameHeader) {
			m.state = inChannel
		}
	case inMark:
		if c == frameMark[1] {
			m.state = behindMark
			return true
		}
		m.text(frameMark[0])
		m.state = inChannel
		return m.octet(c)
	case behindMark:
		switch c {
		case 0:
			m.state = inNumber
		case 1:
			m.text(frameMark[0])
			m.state = inChannel
		default:
			return false
		}
	case inNumber:
		m.channel, m.state = c, inChannel
	default:
		if c == frameMark[0] {
			m.state = inMark
			return true
		}
		m.text(c)
	}
	return true
}

func (m *multiplex) text(c byte) {
	if m.channel == 0 {
		m.imap = append(m.imap, c)
	}
}

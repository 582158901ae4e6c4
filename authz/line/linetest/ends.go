package linetest

import "bytes"

// Ends says what ends a line to a server: LF if nothing else is said.
type Ends struct {
	CRLFOnly bool // LF only behind CR
	BareCR   bool // CR too
	NEL      bool // the octet 0x85 too
	Most     int  // so many octets too; 0: any number is one line
}

// Cut finds the end of the first line, and how much it takes: 0 if it has none yet.
func (e Ends) Cut(in []byte) (text []byte, taken int) {
	for i, c := range in {
		crlf := c == '\n' && i > 0 && in[i-1] == '\r'
		switch {
		case c == '\n' && (!e.CRLFOnly || crlf):
			return bytes.TrimSuffix(in[:i], []byte{'\r'}), i + 1
		case c == '\r' && e.BareCR && i+1 < len(in) && in[i+1] != '\n', c == 0x85 && e.NEL:
			return in[:i], i + 1
		case e.Most > 0 && i+1 >= e.Most:
			return in[:i+1], i + 1
		}
	}
	return nil, 0
}

package capture

import (
	"errors"
	"fmt"
	"hash/maphash"
)

// maxInterfaces bounds the interfaces of one section.
const maxInterfaces = 4096

// Options of interface description blocks (draft-ietf-opsawg-pcapng §4.2).
const (
	interfaceName      = 2  // if_name
	interfaceTimeUnit  = 9  // if_tsresol
	interfaceTimeShift = 14 // if_tsoffset
)

func (p *pcapng) addInterface(body []byte) error {
	if len(body) < 8 {
		return fmt.Errorf("interface block %w", errShort)
	}
	if len(p.interfaces) >= maxInterfaces {
		return errors.New("too many interfaces")
	}
	i := pcapngInterface{
		link:    linkType(p.order.Uint16(body)),
		snapLen: p.order.Uint32(body[4:]),
		unit:    1e6,
	}
	err := p.options(body[8:], func(code uint16, value []byte) error {
		switch {
		case code == interfaceTimeUnit && len(value) >= 1:
			unit, err := timeUnit(value[0])
			i.unit = unit
			return err
		case code == interfaceTimeShift && len(value) >= 8:
			i.shift = int64(p.order.Uint64(value))
		case code == interfaceName:
			i.name = maphash.Bytes(p.seed, value)
		}
		return nil
	})
	i.number = p.number(&i)
	p.interfaces = append(p.interfaces, i)
	return err
}

// number is that of the next interface of the section. Sections are what captures are
// cut into, and joined of: one that stands in the same place as in the section before,
// and looks the same, is the same.
func (p *pcapng) number(i *pcapngInterface) uint32 {
	if at := len(p.interfaces); at < len(p.former) {
		if f := &p.former[at]; f.link == i.link && f.name == i.name {
			return f.number
		}
	}
	p.numbered++
	return p.numbered - 1
}

// timeUnit reads if_tsresol: a negative power of 10, or of 2 if the top bit is
// set (draft-ietf-opsawg-pcapng §4.2).
func timeUnit(v byte) (uint64, error) {
	exponent := int(v & 0x7f)
	base, limit := uint64(10), 19
	if v&0x80 != 0 {
		base, limit = 2, 63
	}
	if exponent > limit {
		return 1, fmt.Errorf("time resolution %#x is not supported", v)
	}
	unit := uint64(1)
	for range exponent {
		unit *= base
	}
	return unit, nil
}

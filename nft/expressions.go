package nft

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a piece of a rule: the expressions that nft(8) makes of the words
// in each function's comment. All of them use one register in turn.
type match []expr.Any

const register = unix.NFT_REG_1

// all joins the pieces of a rule.
func all(pieces ...match) match { return slices.Concat(pieces...) }

func equals(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func and(mask ...byte) expr.Any {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: register,
		Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func in(set string) expr.Any { return &expr.Lookup{SourceRegister: register, SetName: set} }

// notLoopback: iifname != "lo"
func notLoopback() match {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return match{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: name},
	}
}

// toThisHost: fib daddr type local
func toThisHost() match {
	return match{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		equals(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)...),
	}
}

// notFromThisHost: fib saddr type != local
func notFromThisHost() match {
	return match{
		&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// fromLoopback: iifname "lo"
func fromLoopback() match {
	m := notLoopback()
	m[1].(*expr.Cmp).Op = expr.CmpOpEq
	return m
}

// tcp: meta l4proto tcp
func tcp() match {
	return match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_TCP)}
}

// destinationPort: th dport PORT, or th dport @ports if there are several: a
// comparison costs a tenth of a look into a set.
func destinationPort(numbers []uint16) match {
	return match{load(expr.PayloadBaseTransportHeader, 2, 2), portAmong(numbers)}
}

func portAmong(numbers []uint16) expr.Any {
	if len(numbers) == 1 {
		return equals(binary.BigEndian.AppendUint16(nil, numbers[0])...)
	}
	return in(ports)
}

// Each packet that comes in passes these pieces, and nearly all are for other
// ports or open nothing. So what tells them apart at the least cost comes first.

// toPorts: th dport PORT meta l4proto tcp, or meta l4proto tcp th dport @ports
func toPorts(numbers []uint16) match {
	if len(numbers) == 1 {
		return all(destinationPort(numbers), tcp())
	}
	return all(tcp(), destinationPort(numbers))
}

// knock: the same of what opens a connection
func knock(numbers []uint16) match {
	if len(numbers) == 1 {
		return all(toPorts(numbers), opening())
	}
	return all(tcp(), opening(), destinationPort(numbers))
}

// opening: tcp flags & (syn | ack) == syn
//
// The first segment of a connection (RFC 9293 §3.5), whatever other bits it
// carries: there are servers that take FIN or RST beside SYN for one. Connections
// in progress stay, and a stranger who guesses nothing else gets no further than
// this.
func opening() match {
	const syn, ack = 2, 16
	return match{
		load(expr.PayloadBaseTransportHeader, 13, 1),
		and(syn | ack),
		equals(syn),
	}
}

// network: meta nfproto family, then so many bytes at offset in its header
func network(family byte, offset, length uint32) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		equals(family),
		load(expr.PayloadBaseNetworkHeader, offset, length),
	}
}

// sourceIn4: ip saddr @set
func sourceIn4(set string) match { return append(network(unix.NFPROTO_IPV4, 12, 4), in(set)) }

// sourceIn6: ip6 saddr @set
func sourceIn6(set string) match { return append(network(unix.NFPROTO_IPV6, 8, 16), in(set)) }

// destinationIn4: ip daddr @set
func destinationIn4(set string) match { return append(network(unix.NFPROTO_IPV4, 16, 4), in(set)) }

// destinationIn6: ip6 daddr @set
func destinationIn6(set string) match { return append(network(unix.NFPROTO_IPV6, 24, 16), in(set)) }

// sourceNetIn6: ip6 saddr & ffff:ffff:ffff:ffff:: @set
func sourceNetIn6(set string) match {
	mask := make([]byte, 16)
	copy(mask, []byte{255, 255, 255, 255, 255, 255, 255, 255})
	return append(network(unix.NFPROTO_IPV6, 8, 16), and(mask...), in(set))
}

// dynamic: add @set { KEY over } or update @set { KEY over }, where the key is
// what the match before has looked up.
func dynamic(operation uint32, set string, over expr.Any) match {
	return match{&expr.Dynset{SrcRegKey: register, SetName: set, Operation: operation, Exprs: []expr.Any{over}}}
}

// anyBit: ct KEY & bits != 0
func anyBit(key expr.CtKey, bits uint32) match {
	return match{
		&expr.Ct{Key: key, Register: register},
		and(binary.NativeEndian.AppendUint32(nil, bits)...),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// translatedFrom: ct status dnat ct original proto-dst PORT, or @ports
func translatedFrom(numbers []uint16) match {
	const dnat = 1 << 5 // IPS_DST_NAT of nf_conntrack_common.h
	return append(anyBit(expr.CtKeySTATUS, dnat),
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: register, Direction: 0}, portAmong(numbers))
}

// stateNew: ct state new
func stateNew() match { return anyBit(expr.CtKeySTATE, expr.CtStateBitNEW) }

// inReply: ct direction reply
func inReply() match {
	return match{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, equals(1)} // IP_CT_DIR_REPLY
}

// portOnlyDNAT: dnat to :port
func portOnlyDNAT(port uint16) match {
	return match{
		&expr.Immediate{Register: register, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_INET, RegProtoMin: register, Specified: true},
	}
}

// changeMark: meta mark set meta mark & ~bits | to
func changeMark(bits, to uint32) match {
	native := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	return match{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(^bits), Xor: native(to)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
	}
}

func counter() match { return match{&expr.Counter{}} }

func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }

func returns() match { return match{&expr.Verdict{Kind: expr.VerdictReturn}} }

func jump(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// reset: reject with tcp reset
func reset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

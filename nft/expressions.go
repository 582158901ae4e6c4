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

// tcpPortIn: tcp dport @set
func tcpPortIn(set string) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		equals(unix.IPPROTO_TCP),
		load(expr.PayloadBaseTransportHeader, 2, 2),
		in(set),
	}
}

// opening: tcp flags & (fin | syn | rst | ack) == syn
//
// The first segment of a connection (RFC 9293 §3.5), whatever ECN or other
// bits it carries. Connections in progress stay, and a stranger that guesses
// nothing else gets no further than this.
func opening() match {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return match{
		load(expr.PayloadBaseTransportHeader, 13, 1),
		and(fin | syn | rst | ack),
		equals(syn),
	}
}

// sourceIn4: ip saddr @set
func sourceIn4(set string) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		equals(unix.NFPROTO_IPV4),
		load(expr.PayloadBaseNetworkHeader, 12, 4),
		in(set),
	}
}

// sourceIn6: ip6 saddr @set
func sourceIn6(set string) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		equals(unix.NFPROTO_IPV6),
		load(expr.PayloadBaseNetworkHeader, 8, 16),
		in(set),
	}
}

// sourceNetIn6: ip6 saddr & ffff:ffff:ffff:ffff:: @set
func sourceNetIn6(set string) match {
	mask := make([]byte, 16)
	copy(mask, []byte{255, 255, 255, 255, 255, 255, 255, 255})
	return match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		equals(unix.NFPROTO_IPV6),
		load(expr.PayloadBaseNetworkHeader, 8, 16),
		and(mask...),
		in(set),
	}
}

func counter() match { return match{&expr.Counter{}} }

func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }

func jump(chain string) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// reset: reject with tcp reset
func reset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

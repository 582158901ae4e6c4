package flow

import (
	"strings"
	"testing"

	"relaygate/capture"
)

// The streams of a connection that is established, in every mode. The story of
// each begins with "(" and is given without it.
func TestStreams(t *testing.T) {
	urg := plus(capture.URG)
	big := strings.Repeat("x", 20000)
	tests := []struct {
		name  string
		steps []step
		want  string
	}{
		// What is believed.
		{"lock step", []step{sv(0, 0, "+OK\r\n"), cl(0, "USER a\r\n"), sv(5, 8, "+OK\r\n")}, "S<+OK\r\n>C<USER a\r\n>S<+OK\r\n>"},
		{"a pure ACK releases", []step{cl(0, "AB"), sv(0, 2, "")}, "C<AB>"},
		{"an ACK releases what it covers", []step{cl(0, "ABCD"), sv(0, 3, "1"), sv(1, 4, "2")}, "C<ABC>S<1>C<D>S<2>"},
		{"client bytes wait for the ACK", []step{cl(0, "AB"), sv(0, 0, "1")}, "S<1>"},
		{"an old ACK releases nothing", []step{cl(0, "AB"), sv(0, 2, ""), sv(0, 1, "1"), sv(1, 2, "")}, "C<AB>S<1>"},
		{"equal retransmission", []step{cl(0, "ABC"), cl(0, "ABC"), cl(1, "BCD"), sv(0, 4, "1")}, "C<ABCD>S<1>"},
		{"client reordered", []step{cl(2, "CD"), cl(0, "AB"), sv(0, 4, "1")}, "C<ABCD>S<1>"},
		{"client in many pieces", []step{cl(4, "E"), cl(2, "C"), cl(0, "A"), cl(3, "D"), cl(1, "B"), sv(0, 5, "")}, "C<ABCDE>"},
		{"keep-alive with a byte of garbage", []step{cl(0, "AB"), sv(0, 2, ""), cl(1, "?"), sv(0, 2, "1")}, "C<AB>S<1>"},
		{"half-closed client gets its answer", []step{cl(0, "AB", plus(capture.FIN)), sv(0, 3, "1")}, "C<AB>S<1>"},
		{"FIN by itself", []step{cl(0, "AB"), cl(2, "", plus(capture.FIN)), cl(2, "", plus(capture.FIN)), sv(0, 3, "1"), sv(1, 3, "2")}, "C<AB>S<1>S<2>"},
		{"FIN with retransmitted data", []step{cl(0, "AB"), sv(0, 2, ""), cl(0, "AB", plus(capture.FIN)), sv(0, 3, "1")}, "C<AB>S<1>"},
		{"server reordered", []step{sv(2, 0, "34"), sv(0, 0, "12"), sv(4, 0, "5")}, "S<12>S<34>S<5>"},
		{"server overlaps", []step{sv(0, 0, "123"), sv(1, 0, "234"), sv(0, 0, "1234567"), sv(2, 0, "34")}, "S<123>S<4>S<567>"},
		{"server in pieces", []step{sv(5, 0, "6"), sv(3, 0, "4"), sv(1, 0, "2"), sv(0, 0, "123456")}, "S<123456>"},
		{"an ACK ahead of a hole counts at once", []step{cl(0, "AB"), sv(1, 2, "2"), sv(0, 0, "1")}, "C<AB>S<1>S<2>"},
		{"a server super-segment", []step{sv(0, 0, big+big+big+big)}, "S<" + big + big + big + big + ">"},
		{"RST of the client that the kernel ignored", []step{cl(0, "AB"), cl(9, "", flags(capture.RST)), sv(0, 2, "1")}, "C<AB>S<1>"},
		{"data after a valid RST is never acknowledged", []step{cl(0, "", flags(capture.RST)), cl(0, "AB")}, ""},
		{"SYN inside, challenge ACK", []step{cl(0, "AB"), cl(0, "", flags(capture.SYN)), sv(0, 2, ""), cl(2, "C"), sv(0, 3, "1")}, "C<AB>C<C>S<1>"},
		{"a segment below the window", []step{cl(0, "AB"), sv(0, 2, ""), cl(-3000, "XX", urg), sv(0, 2, "1")}, "C<AB>S<1>"},
		{"a stray segment far ahead", []step{cl(1<<30, "XX"), cl(0, "AB"), sv(0, 2, "1")}, "C<AB>S<1>"},
		{"a stray FIN far ahead", []step{cl(1<<30, "", plus(capture.FIN)), cl(0, "AB"), sv(0, 2, "1")}, "C<AB>S<1>"},

		{"the server keeps alive before it has said anything", []step{sv(-1, 0, ""), cl(0, "AB"), sv(0, 2, "1")}, "C<AB>S<1>"},
		{"the client keeps alive before it has said anything", []step{cl(-1, ""), cl(0, "AB"), sv(0, 2, "1")}, "C<AB>S<1>"},

		// With SYN cookies the server may have taken an earlier handshake.
		{"server bytes before the first", []step{sv(-3, 0, "123"), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonBefore},
		{"one server byte before the first", []step{sv(-1, 0, "12")}, "!" + reasonBefore},
		{"an acknowledgement before the first byte", []step{sv(0, -1, ""), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonBefore},
		{"another's acknowledgement", []step{cl(0, "AB"), sv(-2, 2, ""), sv(0, 2, "1")}, "!" + reasonBefore},
		{"client bytes up to the first", []step{cl(-3, "abc"), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonBefore},
		{"client bytes over the first", []step{cl(-3, "abcAB"), sv(0, 2, "1")}, "!" + reasonBefore},

		// Decoys: the kernel drops one of two copies.
		{"decoy before the genuine", []step{cl(0, "XX"), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy after the genuine", []step{cl(0, "AB"), cl(0, "AX"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy without ACK flag", []step{cl(0, "XX", flags(capture.PSH)), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy with SYN", []step{cl(-1, "XX", plus(capture.SYN)), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy with RST", []step{cl(0, "XX", plus(capture.RST)), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy with a wrong ACK", []step{cl(0, "XX", ackNo(5)), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonConflict},
		{"decoy inside", []step{cl(0, "ABCDEF"), cl(2, "X"), sv(0, 6, "1")}, "!" + reasonConflict},
		{"decoy over two pieces", []step{cl(0, "AB"), cl(4, "EF"), cl(1, "BCDX"), sv(0, 6, "1")}, "!" + reasonConflict},
		{"decoy of bytes that are released in part", []step{cl(0, "ABCD"), sv(0, 2, "1"), cl(1, "BCX"), sv(1, 4, "2")}, "C<AB>S<1>!" + reasonConflict},
		{"decoy in the out-of-order queue", []step{cl(2, "XD"), cl(0, "AB"), cl(2, "CD"), sv(0, 4, "1")}, "!" + reasonConflict},
		{"decoy FIN", []step{cl(0, "", plus(capture.FIN)), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonFIN},
		{"FIN in the middle of data", []step{cl(0, "ABCD"), cl(0, "AB", plus(capture.FIN)), sv(0, 2, "1")}, "!" + reasonFIN},
		{"data beyond FIN", []step{cl(0, "AB", plus(capture.FIN)), cl(3, "D"), sv(0, 2, "1")}, "!" + reasonFIN},
		{"two FINs", []step{cl(2, "", plus(capture.FIN)), cl(1, "", plus(capture.FIN)), sv(0, 2, "1")}, "!" + reasonFIN},
		{"data acknowledged beyond an acknowledged FIN", []step{cl(0, "", plus(capture.FIN)), sv(0, 1, ""), cl(1, "B"), sv(0, 2, "1")}, "!" + reasonMissing},
		{"a copy too far ahead that the kernel may keep", []step{
			cl(0, "AB"), sv(0, 2, ""), cl(16002+2, strings.Repeat("Y", 2000)), cl(2, big[:16000]), sv(0, 16002, ""),
			cl(16002, strings.Repeat("Z", 2002)), sv(0, 18004, "1"),
		}, "C<AB>C<" + big[:16000] + ">!" + reasonConflict},
		{"a copy beyond what is kept", []step{
			cl(17000, "X"), cl(0, big[:16000]), sv(0, 16000, ""), cl(16000, big[:1001]), sv(0, 17001, "1"),
		}, "C<" + big[:16000] + ">!" + reasonClientBound},
		{"a FIN beyond what is kept", []step{
			cl(17000, "", plus(capture.FIN)), cl(0, big[:16000]), sv(0, 16000, ""), cl(16000, big[:1001]), sv(0, 17001, "1"),
		}, "C<" + big[:16000] + ">!" + reasonClientBound},

		// What is missing.
		{"acknowledged, never seen", []step{cl(0, "AB"), sv(0, 2, ""), cl(4, "E"), sv(0, 5, "1")}, "C<AB>!" + reasonMissing},
		{"acknowledged one more than seen", []step{cl(0, "AB"), sv(0, 3, "1")}, "!" + reasonMissing},
		{"acknowledged one more than FIN", []step{cl(0, "AB", plus(capture.FIN)), sv(0, 4, "1")}, "!" + reasonMissing},
		{"client payload cut", []step{cl(0, "AB", missing(3)), sv(0, 5, "1")}, "!" + reasonClientSnap},
		{"cut copy after a whole one", []step{cl(0, "ABCDE"), cl(0, "AB", missing(3)), sv(0, 5, "1")}, "!" + reasonClientSnap},
		{"server payload cut", []step{sv(0, 0, "12", missing(3)), sv(5, 0, "3")}, "S<12>/3S<3>"},
		{"server payload cut wholly", []step{sv(0, 0, "", missing(3)), sv(3, 0, "3")}, "S<>/3S<3>"},
		{"server payload cut in a longer copy", []step{sv(0, 0, "12"), sv(0, 0, "123", missing(3)), sv(6, 0, "4")}, "S<12>S<3>/3S<4>"},
		{"server payload cut in a copy of old bytes", []step{sv(0, 0, "12345"), sv(0, 0, "1", missing(3)), sv(5, 0, "6")}, "S<12345>S<6>"},
		{"server payload cut below the next byte", []step{sv(0, 0, "123"), sv(0, 0, "1", missing(5)), sv(6, 0, "7")}, "S<123>S<>/3S<7>"},
		{"server payload cut ahead of a hole", []step{sv(1, 0, "2", missing(3))}, "!" + reasonServerSnap},
		{"server payload cut before what waits", []step{sv(9, 0, "2"), sv(0, 0, "1", missing(3))}, "!" + reasonServerSnap},
		{"cut copy of server bytes seen", []step{sv(0, 0, "12345"), sv(0, 0, "12", missing(3)), sv(5, 0, "6")}, "S<12345>S<6>"},
		{"conflicting server copies", []step{sv(2, 0, "34"), sv(2, 0, "3X"), sv(0, 0, "12")}, "!" + reasonServerCopies},
		{"conflicting server copy in order", []step{sv(2, 0, "34"), sv(0, 0, "12X4")}, "!" + reasonServerCopies},

		// What the kernel acknowledges and does not hand on as it came.
		{"urgent data", []step{cl(0, "AB", urg), sv(0, 2, "1")}, "!" + reasonUrgent},
		{"urgent pointer without payload", []step{cl(0, "", urg), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonUrgent},
		{"urgent pointer far ahead", []step{cl(60000, "", urg), cl(0, "AB"), sv(0, 2, "1")}, "!" + reasonUrgent},
		{"memory that can change", []step{cl(0, "AB"), cl(2, "CD", lent), sv(0, 4, "1")}, "!" + reasonLent},
		{"that after what was read", []step{cl(0, "AB"), sv(0, 2, "1"), cl(0, "AB", lent), cl(2, "C"), sv(1, 3, "2")}, "C<AB>S<1>!" + reasonLent},
		{"Multipath TCP", []step{cl(0, "AB"), sv(0, 2, "1", mptcp)}, "!" + reasonMPTCP},

		// Bounds.
		{"too many client bytes at once", []step{cl(0, big), sv(0, 20000, "1")}, "!" + reasonClientBound},
		{"too many holes", pieces(130), "!" + reasonPieces},
		{"too many server bytes behind a hole", []step{sv(1, 0, big), sv(20001, 0, big), sv(40001, 0, big), sv(60001, 0, big)}, "!" + reasonServerBound},
		{"server bytes far behind a hole", []step{sv(1<<30, 0, "1")}, "!" + reasonServerBound},
		{"nothing after a taint", []step{cl(0, "XX"), cl(0, "AB"), sv(0, 2, "1"), cl(2, "C"), sv(1, 3, "2"), cl(3, "D"), cl(3, "E")}, "!" + reasonConflict},
	}
	for name, m := range modes {
		for _, tt := range tests {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				got := tell(t, newTable(Limits{}), m, begin(m, tt.steps))
				if got != "("+tt.want {
					t.Errorf("got  %.300q\nwant %.300q", got, "("+tt.want)
				}
				if got := tell(t, newLeavingTable(Limits{}), m, begin(m, tt.steps)); got != "("+tt.want {
					t.Errorf("with Config.Done: got  %.300q\nwant %.300q", got, "("+tt.want)
				}
			})
		}
	}
}

// pieces are n single bytes with holes between.
func pieces(n int) []step {
	var steps []step
	for i := range n {
		steps = append(steps, cl(2*i+1, "x"))
	}
	return steps
}

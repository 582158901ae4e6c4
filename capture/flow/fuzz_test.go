package flow

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"relaygate/capture"
)

// grammar checks the order of events: each flow is opened, gives data, is
// tainted at most once, gives no data after that, and is closed, unless it left
// its table before.
type grammar map[ID]Kind

func (g grammar) check(t *testing.T, table *Table, events []Event) {
	t.Helper()
	for _, ev := range events {
		last, open := g[ev.ID]
		conn, _ := table.Conn(ev.ID)
		if ev.Past && !open && table.waiting.late > 0 {
			continue // its slot is still there, as what it waited for was given up with this Feed
		}
		switch {
		case ev.Kind == Opened && open,
			ev.Kind != Opened && !open,
			ev.Kind == Data && (last == Tainted || len(ev.Chunk.Bytes)+ev.Chunk.Cut == 0),
			ev.Kind == Tainted && (last == Tainted || ev.Reason == ""),
			conn.Service.Protocol == 0,
			conn.Client == conn.Server:
			t.Fatalf("%v after %v: %+v", ev.Kind, last, ev)
		}
		g[ev.ID] = ev.Kind
		if ev.Kind == Closed || ev.Kind == Tainted && table.leaving && conn.Cookie == 0 {
			delete(g, ev.ID)
		}
	}
}

// opSize is how many bytes of a fuzzer's input make one event.
const opSize = 8

// decodeOp makes an event of a few bytes: near the sequence numbers of a
// connection, so that something comes of it.
func decodeOp(op []byte, n int) capture.Event {
	m := mode(op[0]&7) % (rewritten + 1)
	off, ack := int(int8(op[2])), int(int8(op[3]))
	if op[1]&0x80 != 0 {
		off *= 1 << (op[4] & 31) // far away
	}
	payload := strings.Repeat(string(rune('a'+op[5]&1)), int(op[6]&0x3f))
	opts := []seg{flags(capture.Flags(op[1] & 0x3f)), missing(int(op[5] >> 6))}
	if op[5]&4 != 0 {
		opts = append(opts, sent(capture.Sender(op[5]>>3&3)))
	}
	if op[5]&0x20 != 0 {
		opts = append(opts, mptcp, fastOpen)
	}
	var s step
	switch op[0] >> 3 & 15 {
	case 0, 1, 2, 3, 4:
		s = cl(off, payload, append(opts, ackNo(serverISN+uint32(ack)))...)
	case 5, 6, 7, 8:
		s = sv(off, ack, payload, opts...)
	case 9:
		s = opened
	case 10:
		s = lost
	case 11:
		s = ended
	case 12:
		s = doubt
	case 13:
		s = syn()
	case 14:
		s = synack()
	default:
		s = cl(0, "")
	}
	if op[0]&0x80 != 0 {
		s = from(nthPort(int(op[7]&15)), s)
	}
	var ev capture.Event
	s(m, &ev)
	ev.Time = start.Add(time.Duration(n) * time.Duration(op[7]) * time.Second)
	return ev
}

// FuzzFeed: no input makes the table panic, break a bound, or tell a story that
// has no sense.
func FuzzFeed(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("k\x00\x00\x00\x00\x00\x00\x00" + "\x01\x10\x00\x00\x00\x00\x04\x00" + "\x29\x10\x00\x04\x00\x00\x05\x00"))
	for m := range byte(7) {
		f.Add([]byte{
			9<<3 | m, 0, 0, 0, 0, 0, 0, 0, // opened
			13<<3 | m, 0, 0, 0, 0, 0, 0, 1, 14<<3 | m, 0, 0, 0, 0, 0, 0, 1, 15<<3 | m, 0, 0, 0, 0, 0, 0, 1,
			m, 0x10, 0, 0, 0, 0, 8, 1, // client data
			5<<3 | m, 0x10, 5, 8, 0, 0, 5, 1, // server data ahead of a hole
			5<<3 | m, 0x10, 0, 8, 0, 0, 5, 1, // and in the hole
			m, 0x11, 8, 10, 0, 1, 3, 1, // client FIN
			13<<3 | m, 0, 0, 0, 0, 0, 0, 1, // SYN inside
			5<<3 | m, 0x11, 10, 12, 0, 0, 0, 1, // server FIN
			12<<3 | m, 0, 0, 0, 0, 0, 0, 200, 11<<3 | m, 0, 0, 0, 0, 0, 0, 200,
		})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Flows: 6, FlowsPerClient: 4, Handshakes: 4, ClientBytes: 600, ServerBytes: 900, Pieces: 4, Buffered: 4 << 10}
		play(t, newTable(limits), data)
		play(t, newLeavingTable(limits), data)
		limits.Waiting = 5 * placeSize
		play(t, newWaitingTable(limits), data)
	})
}

// TestPlay plays such games at random.
func TestPlay(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		data := make([]byte, opSize*(1+rng.IntN(200)))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		for i := 0; i < len(data); i += opSize {
			data[i] &= 0x7a // few modes and clients, so that they meet
			data[i+1] &= 0x7f &^ byte(rng.IntN(2)*int(capture.RST))
			data[i+2], data[i+3], data[i+7] = data[i+2]&31, data[i+3]&31, data[i+7]&3
		}
		play(t, newLeavingTable(Limits{}), data)
		play(t, newWaitingTable(Limits{}), data)
	}
}

// play feeds a fuzzer's input to a table.
func play(t *testing.T, table *Table, data []byte) {
	g := grammar{}
	for n := 0; len(data) >= opSize; n++ {
		ev := decodeOp(data, n)
		events := table.Feed(&ev)
		g.check(t, table, events)
		if id := ID(data[6] & 3); data[7] == 0xff {
			if table.Forget(id); id < table.slots.size() && table.slots.at(id).phase == free {
				delete(g, id)
			}
		}
		check(t, table)
		data = data[opSize:]
	}
	g.check(t, table, table.Flush(start))
	check(t, table)
	if len(g) != 0 || table.Stats().Open != 0 {
		t.Fatalf("open at the end: %v, %+v", g, table.Stats())
	}
	var fresh capture.Event
	for _, s := range shake(login...) {
		s(cooked, &fresh)
		g.check(t, table, table.Feed(&fresh))
	}
	if st := table.Stats(); st.Open != 1 {
		t.Fatalf("an honest flow after it: %+v", st)
	}
}

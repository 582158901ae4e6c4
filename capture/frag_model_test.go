package capture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// kernelQueue models how Linux reassembles one IPv4 datagram (ip_frag_queue,
// inet_frag_queue_insert): the first copy of a byte wins, what lies within a
// run of bytes already there is ignored, any other overlap ends the queue.
type kernelQueue struct {
	since time.Time
	data  map[int]byte
	total int
	last  bool
}

// kernel models a host's queues by identifier.
type kernel map[uint16]*kernelQueue

// fragment returns the datagram that it completes, or nil.
func (k kernel) fragment(now time.Time, id uint16, offset int, more bool, body []byte) []byte {
	q := k[id]
	if q == nil || now.Sub(q.since) >= 30*time.Second {
		q = &kernelQueue{since: now, data: make(map[int]byte)}
		k[id] = q
	}
	end := offset + len(body)
	if !more && (end < q.total || q.last && end != q.total) || more && end > q.total && q.last {
		delete(k, id)
		return nil
	}
	q.last = q.last || !more
	q.total = max(q.total, end)
	held := 0
	for i := range body {
		if _, ok := q.data[offset+i]; ok {
			held++
		}
	}
	if held > 0 {
		if held < len(body) {
			delete(k, id)
		}
		return nil
	}
	for i, b := range body {
		q.data[offset+i] = b
	}
	if !q.last || len(q.data) != q.total {
		return nil
	}
	delete(k, id)
	whole := make([]byte, q.total)
	for i, b := range q.data {
		whole[i] = b
	}
	return whole
}

// TestFragmentsHideNothing is the argument in frag.go as a model test. A client
// sends fragments of several texts in any order, some of which the kernel drops
// though the capture shows them. Whatever the kernel delivers within a
// connection was handed on within that connection, or there was a Doubt, before
// the server's next payload.
func TestFragmentsHideNothing(t *testing.T) {
	rounds := 10000
	if testing.Short() {
		rounds = 1000
	}
	delivered, shown := 0, 0
	for seed := range rounds {
		d, s := hideRound(t, uint64(seed))
		delivered, shown = delivered+d, shown+s
	}
	if delivered < rounds/10 || shown < delivered/50 {
		t.Errorf("delivered %d, shown without a doubt %d in %d rounds: the model tests nothing", delivered, shown, rounds)
	}
}

// hideRound returns how many datagrams the kernel delivered, and how many of
// them were shown without any doubt.
func hideRound(t *testing.T, seed uint64) (delivered, shown int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 5))
	segments := [][]byte{tcpSegment("a1 LOGIN alice x\r\n"), tcpSegment("a1 ID nil, xyz..\r\n")}
	answer := ipv4Reply(reply("a1 OK\r\n"))
	d, k, now := newTestDecoder(), kernel{}, start
	var (
		log    []string
		owed   [][]byte        // delivered in this connection
		seen   map[string]bool // handed on in this connection
		doubts bool
	)
	seen = make(map[string]bool)
	decode := func(packet []byte) {
		for _, ev := range decodeAll(d, linkRaw, packet, len(packet), now) {
			if ev.Kind == Doubt {
				doubts = true
			} else {
				seen[string(ev.Segment.Payload)] = true
			}
		}
	}
	for range 4 + rng.IntN(16) {
		switch n := rng.IntN(20); n {
		case 0: // the next connection
			owed, seen, doubts = nil, make(map[string]bool), false
			log = append(log, "open")
		case 1:
			now = now.Add(time.Duration(rng.IntN(40)) * time.Second)
			log = append(log, "wait")
		case 2, 3:
			decode(answer)
			log = append(log, "answer")
			for _, payload := range owed {
				delivered++
				if seen[string(payload)] && !doubts {
					shown++
				} else if !doubts {
					t.Fatalf("seed %d: %q was hidden: %q", seed, payload, log)
				}
			}
			owed = nil
		default:
			segment := segments[rng.IntN(2)]
			blocks := (len(segment) + 7) / 8
			from := rng.IntN(blocks)
			if rng.IntN(2) == 0 {
				from = from / 3 * 3 // mostly in two pieces
			}
			to := min(from+1+rng.IntN(blocks-from), blocks)
			if from%3 == 0 && rng.IntN(4) != 0 {
				to = min(from+3, blocks)
			}
			body := segment[from*8 : min(to*8, len(segment))]
			more := to < blocks
			if rng.IntN(30) == 0 {
				more = len(body)%8 == 0
			}
			if from == 0 && !more {
				continue // not a fragment
			}
			id := uint16(1 + rng.IntN(8)/7)
			field := uint16(from)
			if more {
				field |= 0x2000
			}
			dropped := rng.IntN(4) == 0
			log = append(log, fmt.Sprintf("%d:%d-%d more=%t dropped=%t %q", id, from, to, more, dropped, body))
			decode(ipv4Fragment(protoTCP, id, field, body))
			if dropped {
				continue
			}
			if whole := k.fragment(now, id, from*8, more, body); len(whole) >= tcpHeaderLen {
				owed = append(owed, slices.Clone(whole[tcpHeaderLen:]))
			}
		}
	}
	return delivered, shown
}

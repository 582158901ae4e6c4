package traffic

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sort"
)

// generator holds the sessions that are open at one time.
type generator struct {
	profile  Profile
	rng      *rand.Rand
	material *material
	clients  []netip.Addr
	used     map[[2]netip.AddrPort]bool
	open     sessions
	others   int // of them, those of another port
	truth    Truth
}

// Generate writes a capture.
func Generate(w io.Writer, p Profile) (Truth, error) {
	rng := rand.New(rand.NewPCG(p.Seed, 42))
	g := &generator{
		profile: p, rng: rng, material: newMaterial(rng), used: make(map[[2]netip.AddrPort]bool),
		truth: Truth{Logins: make(map[netip.Addr]int)},
	}
	for i := range p.Clients {
		g.clients = append(g.clients, address(rng, i))
	}
	out, err := newWriter(w)
	if err != nil {
		return g.truth, err
	}
	if err := g.run(out); err != nil {
		return g.truth, err
	}
	g.truth.Bytes = out.bytes
	if err := out.out.Flush(); err != nil {
		return g.truth, fmt.Errorf("write capture: %w", err)
	}
	return g.truth, nil
}

// address makes up the i-th client.
func address(rng *rand.Rand, i int) netip.Addr {
	if i%5 == 4 {
		b := [16]byte{0x20, 1, 0x0d, 0xb8, 0, byte(i >> 8), byte(i)}
		binary.BigEndian.PutUint64(b[8:], rng.Uint64())
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte{byte(11 + rng.IntN(80)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(1 + rng.IntN(254))})
}

// run plays the sessions and writes their packets in the order of time.
func (g *generator) run(out *writer) error {
	begun, next := 0, int64(1000)
	for begun < g.profile.Sessions || len(g.open) > 0 {
		if begun < g.profile.Sessions && (len(g.open) == 0 || next <= g.open[0].due()) {
			heap.Push(&g.open, g.session(next, true))
			begun++
			next += int64(g.rng.ExpFloat64() * 1e6 / g.profile.Rate)
			continue
		}
		if g.wantsOther() && begun < g.profile.Sessions {
			heap.Push(&g.open, g.session(g.open[0].due()+g.rng.Int64N(5000), false))
			g.others++
			continue
		}
		s := g.open[0]
		if err := out.packet(s, &s.packets[s.next]); err != nil {
			return err
		}
		g.truth.Packets++
		if s.mail {
			g.truth.MailPackets++
		}
		if s.next++; s.next < len(s.packets) {
			heap.Fix(&g.open, 0)
			continue
		}
		heap.Pop(&g.open)
		if !s.mail {
			g.others--
		}
	}
	return nil
}

// wantsOther tells whether too few packets were of another port.
func (g *generator) wantsOther() bool {
	const atOnce = 40
	others := float64(g.truth.Packets - g.truth.MailPackets)
	return g.others < atOnce && others < g.profile.Background*float64(g.truth.Packets)
}

// session makes one that begins at a time.
func (g *generator) session(at int64, mail bool) *session {
	rng := g.rng
	s := &session{mail: mail}
	ports := []uint16{110, 143}
	if !mail {
		ports = []uint16{443}
	}
	for fresh := false; !fresh; {
		where := rng.Float64() // some clients come more often than others
		client := g.clients[int(where*where*float64(len(g.clients)))]
		server := netip.AddrFrom4([4]byte{203, 0, 113, 10})
		if client.Is6() {
			server = netip.MustParseAddr("2001:db8:ffff::10")
		}
		s.client = netip.AddrPortFrom(client, uint16(1024+rng.IntN(64000)))
		s.server = netip.AddrPortFrom(server, ports[rng.IntN(len(ports))])
		key := [2]netip.AddrPort{s.client, s.server}
		fresh = !g.used[key]
		g.used[key] = true
	}
	c := &talk{
		session: s, rng: rng, now: at, rtt: 5000 + rng.Int64N(60000), toNext: rng.Uint32(), froms: rng.Uint32(),
		loss: g.profile.Loss, reorder: g.profile.Reorder,
	}
	c.open()
	switch s.server.Port() {
	case 110:
		g.play(c, pop3{})
	case 143:
		g.play(c, &imap{prefix: []string{"a", "A", "A00", "x."}[rng.IntN(4)]})
	default:
		c.other(g.material, func() int { return others.size(rng) })
	}
	sort.SliceStable(s.packets, func(i, j int) bool { return s.packets[i].at < s.packets[j].at })
	return s
}

// others is what goes to another port.
var others = Profile{Scale: 3000, Alpha: 1.2, Limit: 1_000_000}

// sessions is a heap by the time of the next packet.
type sessions []*session

func (s *session) due() int64         { return s.packets[s.next].at }
func (s sessions) Len() int           { return len(s) }
func (s sessions) Less(i, j int) bool { return s[i].due() < s[j].due() }
func (s sessions) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *sessions) Push(x any)        { *s = append(*s, x.(*session)) }
func (s *sessions) Pop() any {
	old := *s
	last := old[len(old)-1]
	*s = old[:len(old)-1]
	return last
}

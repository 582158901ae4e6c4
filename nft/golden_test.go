package nft

import (
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recorder answers requests as an empty kernel would, and keeps them.
type recorder struct {
	strings.Builder
	held    map[netip.Addr]time.Duration // what lookups find
	answers []netlink.Message            // that wait to be received, one at a time
}

func (r *recorder) answer(requests []netlink.Message) ([]netlink.Message, error) {
	if requests == nil {
		if len(r.answers) == 0 {
			return nil, io.ErrUnexpectedEOF // one that never comes
		}
		next := r.answers[:1]
		r.answers = r.answers[1:]
		return next, nil
	}
	for _, m := range requests {
		fmt.Fprintf(r, "%s flags %#x\n%s", messageName(m.Header.Type), uint16(m.Header.Flags), hex.Dump(m.Data))
		get := m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM
		switch asked, _ := parseElements(m); {
		case get && r.held[asked[0].key] > 0:
			found := memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own,
				[]member{{asked[0].set, asked[0].key, time.Hour, r.held[asked[0].key]}})[0]
			found.Header.Sequence = m.Header.Sequence
			r.answers = append(r.answers, found)
		case m.Header.Flags&netlink.Excl != 0 && r.held[asked[0].key] > 0:
			r.answers = append(r.answers, failure(m, unix.EEXIST))
		case get:
			r.answers = append(r.answers, failure(m, unix.ENOENT))
		case m.Header.Flags&netlink.Acknowledge != 0:
			r.answers = append(r.answers, failure(m, 0))
		}
	}
	return nil, nil
}

// failure is NLMSG_ERROR, an acknowledgement if errno is 0.
func failure(request netlink.Message, errno unix.Errno) netlink.Message {
	messages, _ := nltest.Error(int(errno), []netlink.Message{request})
	return messages[0]
}

func messageName(t netlink.HeaderType) string {
	if name, ok := map[netlink.HeaderType]string{
		unix.NFNL_MSG_BATCH_BEGIN:                              "BATCH_BEGIN",
		unix.NFNL_MSG_BATCH_END:                                "BATCH_END",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE:   "NEWTABLE",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE:   "DELTABLE",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN:   "NEWCHAIN",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:    "NEWRULE",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSET:     "NEWSET",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM: "NEWSETELEM",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM: "GETSETELEM",
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM: "DELSETELEM",
	}[t]; ok {
		return name
	}
	return fmt.Sprintf("%#x", uint16(t))
}

// The bytes that go to the kernel, but for the sequence and port numbers in
// their headers.
func TestMessagesAreAsRecorded(t *testing.T) {
	cfg := Config{Mode: Filter, Ports: []uint16{25}, IPv6Prefix: 64}
	tests := []struct {
		golden string
		held   map[netip.Addr]time.Duration
		do     func(*Gate) error
	}{
		{"add", nil, func(g *Gate) error {
			return g.Add(Element{member4, 30 * time.Minute, 10 * time.Minute}, Element{member6, 30 * time.Minute, time.Nanosecond})
		}},
		{"renew", map[netip.Addr]time.Duration{member4: time.Minute}, func(g *Gate) error {
			g.updates = true
			return g.Add(Element{member4, 30 * time.Minute, 10 * time.Minute})
		}},
		{"renew-by-replacing", map[netip.Addr]time.Duration{member4: time.Minute}, func(g *Gate) error {
			return g.Add(Element{member4, 30 * time.Minute, 10 * time.Minute})
		}},
		// No transaction that fails, for which the kernel takes 10 ms and more.
		{"renew-what-is-held", map[netip.Addr]time.Duration{member4: time.Minute}, func(g *Gate) error {
			g.updates = true
			return g.Renew(Element{member4, 30 * time.Minute, 10 * time.Minute})
		}},
		{"renew-what-ran-out", nil, func(g *Gate) error {
			g.updates = true
			return g.Renew(Element{member4, 30 * time.Minute, 10 * time.Minute})
		}},
		{"held-for-longer", map[netip.Addr]time.Duration{member4: time.Hour}, func(g *Gate) error {
			return g.Add(Element{member4, 30 * time.Minute, 10 * time.Minute})
		}},
		{"remove", map[netip.Addr]time.Duration{member4: time.Minute}, func(g *Gate) error { return g.Remove(member4) }},
		{"remove-what-ran-out", nil, func(g *Gate) error { return g.Remove(member4) }},
		{"rebuild", nil, func(g *Gate) error { return g.Rebuild([]Element{{member4, 30 * time.Minute, 10 * time.Minute}}) }},
	}
	for _, tt := range tests {
		t.Run(tt.golden, func(t *testing.T) {
			r := &recorder{held: tt.held}
			g := &Gate{cfg: cfg, conn: conn{Conn: nltest.Dial(r.answer)}, table: own, ruleset: declare(cfg, MaxElements)}
			must(t, tt.do(g))
			file := filepath.Join("testdata", tt.golden+".golden")
			if *update {
				must(t, os.WriteFile(file, []byte(r.String()), 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if diff := cmp.Diff(string(want), r.String()); diff != "" {
				t.Errorf("run with -update if this is meant: %s", diff)
			}
		})
	}
}

func TestAddAllocations(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	g := openGate(t, filter(bpftest.Namespace(t)))
	rebuild(t, g)
	i := 0
	n := testing.AllocsPerRun(100, func() {
		i++
		must(t, g.Add(Element{nth4(i), time.Hour, time.Minute}))
	})
	if n > 0 {
		t.Errorf("%v allocations for one Add, want none", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := openGate(b, filter(bpftest.Namespace(b)))
			rebuild(b, g)
			b.ReportAllocs()
			elements := make([]Element, n)
			for i := 0; b.Loop(); i += n {
				for j := range elements {
					elements[j] = Element{nth4((i + j) % 500000), time.Hour, time.Minute}
				}
				must(b, g.Add(elements...))
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "adds/s")
		})
	}
}

// One new member, as a login adds it: what half of the calls take, and all but
// one in a hundred.
func BenchmarkAddOne(b *testing.B) {
	g := openGate(b, filter(bpftest.Namespace(b)))
	rebuild(b, g)
	b.ReportAllocs()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		e := Element{nth4(i % 500_000), time.Hour, time.Minute}
		if i >= 500_000 {
			e.Addr = nth6(i % MaxElements)
		}
		start := time.Now()
		must(b, g.Add(e))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "ns/p99")
}

func BenchmarkCheck(b *testing.B) {
	g := openGate(b, filter(bpftest.Namespace(b)))
	rebuild(b, g)
	b.ReportAllocs()
	for b.Loop() {
		must(b, g.Check())
	}
}

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/nft"
)

// Million are the figures of a gate with a million members.
type Million struct {
	// TableBytes is what the table of grants takes of a process, KernelBytes what
	// the elements take of the kernel.
	TableBytes, KernelBytes int64
	// Load is the time to write all elements, Add that of one more, by rank.
	Load           time.Duration
	AddMedian, P99 time.Duration
	Slowest, Check time.Duration
	// Ready is the time from the start of the daemon, with the grants in its state
	// file, until the gate stands; Own what it takes then for itself, and Mapped of
	// the page cache, as its state file is mapped; Login the median time from a
	// login's answer to its element, LoginMost the longest.
	Ready            time.Duration
	Own, Mapped      int64
	Login, LoginMost time.Duration

	ends must.Ends
}

const (
	million = 1_000_000
	logins  = 10 // beside them
)

// member is the i-th address.
func member(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 11<<24|uint32(i))))
}

// gate measures a million grants, in a process of its own.
func gate(ctx context.Context, c *Config) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(c.Log, "  needs root: left out")
		return
	}
	var out bytes.Buffer
	program := ""
	if c.Full {
		program = c.Relaygate // it takes most of the time
	}
	measure(ctx, &out, c.Self, "-million", program)
	var m Million
	must.Do(json.Unmarshal(out.Bytes(), &m))
	const of = "1,000,000 grants: "
	mb := func(n int64) float64 { return float64(n) / (1 << 20) }
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	c.Tell(
		AtMost(of+"memory of the table", 120, mb(m.TableBytes), "MB", fmt.Sprintf("%d bytes each", m.TableBytes/million)),
		Told(of+"memory of the kernel's elements", mb(m.KernelBytes), "MB", fmt.Sprintf("%d bytes each, IPv4", m.KernelBytes/million)),
		AtMost(of+"time to load them into the kernel", 2, m.Load.Seconds(), "s", fmt.Sprintf("%.0f per second", million/m.Load.Seconds())),
		AtMost(of+"one more element, median", 100, us(m.AddMedian), "µs", fmt.Sprintf("99 of 100 within %.0f µs, the slowest %.0f µs", us(m.P99), us(m.Slowest))),
		Told(of+"a look at the table", us(m.Check), "µs", ""),
	)
	if m.Ready == 0 {
		return
	}
	c.Tell(
		Told(of+"from the start of the daemon to the gate", m.Ready.Seconds(), "s", "the grants are in its state file"),
		AtMost(of+"memory of the daemon", 400, mb(m.Own), "MB", fmt.Sprintf("and %.0f MB of the page cache", mb(m.Mapped))),
		AtMost(of+"one more login, from its answer to the open gate", 20, us(m.Login)/1e3, "ms",
			fmt.Sprintf("in the daemon, while it writes relayhosts; the slowest of %d: %.0f ms", logins, us(m.LoginMost)/1e3)),
	)
}

// MeasureMillion prints the figures as JSON; those of the daemon if there is a
// program.
func MeasureMillion(ctx context.Context, program string, out io.Writer) error {
	var m Million
	err := must.Try(func() {
		m.measureParts()
		if program != "" {
			debug.FreeOSMemory()
			m.measureDaemon(ctx, program)
		}
	})
	if err := errors.Join(err, m.ends.Failed()); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m)
}

// fillTable grants a million addresses to as many users.
func fillTable(now time.Time) *grant.Table {
	t := grant.New(grant.Config{Lifetime: time.Hour})
	t.SetPolicy(now, must.Get(authz.NewPolicy(authz.Host{}, authz.Rules{})))
	for i := range million {
		v := authz.Verdict{
			Login: authz.Login{Result: authz.Success, User: "user" + strconv.Itoa(i), Mechanism: "LOGIN"}, Time: now,
			Conn: authz.Conn{
				Client: netip.AddrPortFrom(member(i), 40000), Server: netip.MustParseAddrPort("198.51.100.25:143"),
				Service: authz.Service{Protocol: authz.IMAP},
			},
			Origin: authz.FromHost,
		}
		var a grant.Admission
		if !t.Admit(now, &v, &a) || a.Kind != grant.Granted {
			must.Do(fmt.Errorf("grant %s: %+v", member(i), a))
		}
		t.Explain(&a)
	}
	return t
}

// measureParts takes the table and the gate without the daemon.
func (m *Million) measureParts() {
	ns := must.Get(netns.New())
	defer m.ends.End(ns.Close)
	before, now := status("self", "VmRSS"), time.Now()
	table := fillTable(now)
	debug.FreeOSMemory()
	m.TableBytes = status("self", "VmRSS") - before
	g := must.Get(nft.Open(nft.Config{Mode: nft.Filter, Ports: []uint16{25}, Netns: ns.FD()}))
	defer m.ends.End(func() error { return errors.Join(g.Delete(), g.Close()) })
	m.measureGate(g, table, now)
}

func (m *Million) measureGate(g *nft.Gate, table *grant.Table, now time.Time) {
	slab, start := meminfo("SUnreclaim"), time.Now()
	must.Do(g.Load(func(yield func(nft.Element) bool) {
		for p, until := range table.Project(now) {
			if !yield(nft.Element{Addr: p.Addr(), Timeout: time.Hour, Remaining: until.Sub(now)}) {
				return
			}
		}
	}, nil))
	m.Load = time.Since(start)
	m.KernelBytes = meminfo("SUnreclaim") - slab
	var adds []time.Duration
	for i := range 2000 {
		start := time.Now()
		must.Do(g.Add(nft.Element{Addr: member(million + i), Timeout: time.Hour, Remaining: time.Hour}))
		adds = append(adds, time.Since(start))
	}
	slices.Sort(adds)
	m.AddMedian, m.P99, m.Slowest = adds[len(adds)/2], adds[len(adds)*99/100], adds[len(adds)-1]
	start = time.Now()
	must.Do(g.Check())
	m.Check = time.Since(start)
}

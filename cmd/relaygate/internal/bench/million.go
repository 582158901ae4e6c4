//go:build linux

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
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/state"
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
func gate(ctx context.Context, c *Config) ([]Row, error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(c.Log, "  needs root: left out")
		return nil, nil
	}
	var out bytes.Buffer
	program := ""
	if c.Full {
		program = c.Relaygate // it takes most of the time
	}
	if _, err := measure(ctx, &out, c.Million[0], append(slices.Clone(c.Million[1:]), program)...); err != nil {
		return nil, err
	}
	var m Million
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return nil, fmt.Errorf("figures of a million grants: %w", err)
	}
	const of = "1,000,000 grants: "
	mb := func(n int64) float64 { return float64(n) / (1 << 20) }
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	rows := []Row{
		AtMost(of+"memory of the table", 120, mb(m.TableBytes), "MB", fmt.Sprintf("%d bytes each", m.TableBytes/million)),
		Told(of+"memory of the kernel's elements", mb(m.KernelBytes), "MB", fmt.Sprintf("%d bytes each, IPv4", m.KernelBytes/million)),
		AtMost(of+"time to load them into the kernel", 2, m.Load.Seconds(), "s", fmt.Sprintf("%.0f per second", million/m.Load.Seconds())),
		AtMost(of+"one more element, median", 100, us(m.AddMedian), "µs", fmt.Sprintf("99 of 100 within %.0f µs, the slowest %.0f µs", us(m.P99), us(m.Slowest))),
		Told(of+"a look at the table", us(m.Check), "µs", ""),
	}
	if m.Ready == 0 {
		return rows, nil
	}
	return append(rows,
		Told(of+"from the start of the daemon to the gate", m.Ready.Seconds(), "s", "the grants are in its state file"),
		AtMost(of+"memory of the daemon", 400, mb(m.Own), "MB", fmt.Sprintf("and %.0f MB of the page cache", mb(m.Mapped))),
		AtMost(of+"one more login, from its answer to the open gate", 20, us(m.Login)/1e3, "ms",
			fmt.Sprintf("in the daemon, while it writes relayhosts; the slowest of %d: %.0f ms", logins, us(m.LoginMost)/1e3))), nil
}

// MeasureMillion prints the figures as JSON; those of the daemon if there is a
// program.
func MeasureMillion(ctx context.Context, program string, out io.Writer) error {
	var m Million
	ns, err := netns.New()
	if err != nil {
		return err
	}
	err = errors.Join(m.measureParts(ns), ns.Close())
	if err == nil && program != "" {
		debug.FreeOSMemory()
		err = m.measureDaemon(ctx, program)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m)
}

// fillTable grants a million addresses to as many users.
func fillTable(now time.Time) (*grant.Table, error) {
	p, err := authz.NewPolicy(authz.Host{}, authz.Rules{})
	if err != nil {
		return nil, err
	}
	t := grant.New(grant.Config{Lifetime: time.Hour})
	t.SetPolicy(now, p)
	for i := range million {
		v := authz.Verdict{
			Login: authz.Login{Result: authz.Success, User: "user" + strconv.Itoa(i), Mechanism: "LOGIN"}, Time: now,
			Conn: authz.Conn{
				Client: netip.AddrPortFrom(member(i), 40000), Server: netip.MustParseAddrPort("198.51.100.25:143"),
				Service: authz.Service{Protocol: authz.IMAP},
			},
			Origin: authz.FromHost,
		}
		if c, ok := t.Login(now, v); !ok || c.Kind != grant.Granted {
			return nil, fmt.Errorf("grant %s: %+v", member(i), c)
		}
	}
	return t, nil
}

// measureParts takes the table and the gate without the daemon.
func (m *Million) measureParts(ns *netns.Namespace) error {
	before, err := status("self", "VmRSS")
	if err != nil {
		return err
	}
	now := time.Now()
	table, err := fillTable(now)
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	after, err := status("self", "VmRSS")
	if err != nil {
		return err
	}
	m.TableBytes = after - before
	g, err := nft.Open(nft.Config{Mode: nft.Filter, Ports: []uint16{25}, Netns: ns.FD()})
	if err != nil {
		return err
	}
	return errors.Join(m.measureGate(g, table, now), g.Close())
}

func (m *Million) measureGate(g *nft.Gate, table *grant.Table, now time.Time) error {
	slab, err := meminfo("SUnreclaim")
	if err != nil {
		return err
	}
	start := time.Now()
	err = g.Load(func(yield func(nft.Element) bool) {
		for p, until := range table.Project(now) {
			if !yield(nft.Element{Addr: p.Addr(), Timeout: time.Hour, Remaining: until.Sub(now)}) {
				return
			}
		}
	}, nil)
	if err != nil {
		return err
	}
	m.Load = time.Since(start)
	filled, err := meminfo("SUnreclaim")
	if err != nil {
		return err
	}
	m.KernelBytes = filled - slab
	var adds []time.Duration
	for i := range 2000 {
		start := time.Now()
		if err := g.Add(nft.Element{Addr: member(million + i), Timeout: time.Hour, Remaining: time.Hour}); err != nil {
			return err
		}
		adds = append(adds, time.Since(start))
	}
	slices.Sort(adds)
	m.AddMedian, m.P99, m.Slowest = adds[len(adds)/2], adds[len(adds)*99/100], adds[len(adds)-1]
	start = time.Now()
	err = g.Check()
	m.Check = time.Since(start)
	return errors.Join(err, g.Delete())
}

// measureDaemon starts the daemon with a million grants in its state file, and
// logs in.
func (m *Million) measureDaemon(ctx context.Context, program string) (err error) {
	dir, err := os.MkdirTemp("", "relaygate-million")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := saveMillion(filepath.Join(dir, "state.db")); err != nil {
		return err
	}
	network, err := lab.NewNetwork()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	mail, err := lab.StartMailServer(network.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	start := time.Now()
	d, err := lab.StartDaemon(ctx, network.Server, lab.Options{Exe: program, Dir: dir, Lifetime: time.Hour, Ready: 5 * time.Minute})
	if err != nil {
		return err
	}
	m.Ready = time.Since(start)
	return errors.Join(m.measureLogin(ctx, network, d), d.Stop())
}

func (m *Million) measureLogin(ctx context.Context, network *lab.Network, d *lab.Daemon) error {
	client := control.NewClient(d.Socket)
	ask := func(good func(*control.Status) bool) (s control.Status, err error) {
		err = lab.Poll(ctx, time.Minute, 20*time.Millisecond, func() (err error) {
			if s, err = client.Status(ctx); err == nil && !good(&s) {
				err = fmt.Errorf("%d grants, %d added", s.Grants, s.Gate.Adds)
			}
			return err
		})
		return s, err
	}
	if _, err := ask(func(s *control.Status) bool { return s.Grants == million && s.Files[0].Writes > 0 }); err != nil {
		return err
	}
	var delays []time.Duration
	for i := range logins {
		if _, ok, err := network.Client4.Login(ctx, lab.POP3Login(lab.Server4, lab.Password)); err != nil || !ok {
			return fmt.Errorf("log in: %v, %w", ok, err)
		}
		s, err := ask(func(s *control.Status) bool { return s.Gate.Adds == uint64(i+1) })
		if err != nil {
			return err
		}
		delays = append(delays, s.Gate.LastDelay.Duration)
		o := control.Order{Verb: control.VerbRevoke, Prefix: netip.PrefixFrom(lab.Client4, 32)}
		if _, err := client.Order(ctx, o); err != nil {
			return err
		}
	}
	slices.Sort(delays)
	m.Login, m.LoginMost = delays[logins/2], delays[logins-1]
	var err error
	pid := strconv.Itoa(d.PID())
	if m.Own, err = status(pid, "RssAnon"); err != nil {
		return err
	}
	m.Mapped, err = status(pid, "RssFile")
	return err
}

// saveMillion writes a state file as a daemon with these grants leaves it.
func saveMillion(path string) error {
	now := time.Now()
	s, err := state.Open(path, now)
	if err != nil {
		return err
	}
	addrs := make([]string, million)
	for i := range addrs {
		addrs[i] = member(i).String()
	}
	slices.Sort(addrs) // as pages are filled best
	for i, text := range addrs {
		a := netip.MustParseAddr(text)
		g := grant.Grant{Prefix: netip.PrefixFrom(a, 32), Since: now, Expires: now.Add(time.Hour), Source: grant.Login, Logins: 1}
		saved := grant.Save(now, grant.Boot{}, g)
		s.Put("grants", g.Prefix.String(), state.AppendGrant(nil, &saved))
		if i%(1<<15) == 0 {
			if err := s.Flush(); err != nil {
				return errors.Join(err, s.Close())
			}
		}
	}
	return s.Close()
}

// status reads a figure of a process in kB (proc_pid_status(5)), as bytes.
func status(pid, name string) (int64, error) { return figure("/proc/"+pid+"/status", name) }

// meminfo reads one of the whole machine (proc_meminfo(5)).
func meminfo(name string) (int64, error) { return figure("/proc/meminfo", name) }

func figure(file, name string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

package daemon

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/daemon/livetap"
	"relaygate/cmd/relaygate/internal/daemon/logging"
	"relaygate/cmd/relaygate/internal/daemon/message"
	"relaygate/cmd/relaygate/internal/engine"
)

// player is a tap that plays POP3 logins, each of another user from another
// address, at a pace.
type player struct {
	livetap.Tap
	gap   time.Duration // between two logins; 0 is flat out
	first int           // number of the first login
	count int
	start time.Time
	login int // number of the one that is played
	step  int // of script
	lags  []time.Duration
	done  func()
	ended bool
	woken chan struct{}
	until time.Time // when Next returns though nothing was played
	conn  authz.Conn
	lines [5]string
	at    [2]uint32 // sequence numbers, by direction
}

// sent says which lines of a login the server sends.
var sent = [5]bool{true, false, true, false, true}

func (p *player) Next(ev *capture.Event) error {
	if p.login == p.count {
		if !p.ended {
			p.ended = true
			p.done()
		}
		select {
		case <-p.woken:
		case <-time.After(time.Until(p.until)):
		}
		return os.ErrDeadlineExceeded
	}
	due := p.start.Add(time.Duration(p.login) * p.gap)
	now := time.Now()
	if p.gap > 0 && p.step == 0 && now.Before(due) {
		time.Sleep(time.Millisecond) // as the tap does in a crowd
		return os.ErrDeadlineExceeded
	}
	*ev = capture.Event{Time: now}
	switch p.step {
	case 0:
		p.open(ev)
	case len(p.lines) + 1:
		ev.Kind, ev.Conn = capture.Closed, authz.Conn{Cookie: p.conn.Cookie}
		if p.gap > 0 {
			p.lags = append(p.lags, now.Sub(due))
		}
		p.step = -1
		p.login++
	default:
		p.say(ev, p.lines[p.step-1], sent[p.step-1])
	}
	p.step++
	return nil
}

func (p *player) open(ev *capture.Event) {
	n := p.first + p.login
	client := netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})
	p.conn = authz.Conn{
		Client: netip.AddrPortFrom(client, 50000), Server: netip.MustParseAddrPort("198.51.100.25:110"),
		Cookie: uint64(n) + 1, Netns: 1,
	}
	p.lines = [5]string{"+OK ready\r\n", "USER user" + strconv.Itoa(n) + "\r\n", "+OK\r\n", "PASS right\r\n", "+OK logged in\r\n"}
	p.at = [2]uint32{1000, 2000}
	ev.Kind, ev.Trusted, ev.Conn, ev.ClientISN, ev.ServerISN = capture.Opened, true, p.conn, p.at[0], p.at[1]
}

func (p *player) say(ev *capture.Event, line string, server bool) {
	s := &ev.Segment
	s.Src, s.Dst, s.Sent = p.conn.Client, p.conn.Server, capture.SenderOutside
	own, other := &p.at[0], p.at[1]
	if server {
		s.Src, s.Dst, s.Sent = s.Dst, s.Src, capture.SenderHost
		own, other = &p.at[1], p.at[0]
	}
	s.Cookie, s.Flags, s.Seq, s.Ack, s.Payload = p.conn.Cookie, capture.ACK|capture.PSH, *own, other, []byte(line)
	*own += uint32(len(line))
}

func (p *player) Crowded() bool {
	return p.login < p.count && (p.step > 0 || p.gap == 0 || !time.Now().Before(p.start.Add(time.Duration(p.login)*p.gap)))
}

func (p *player) SetDeadline(t time.Time) { p.until = t }

func (p *player) Wake() { message.Wake(p.woken) }

func (p *player) Steer(engine.Steering) error { return nil }

// discard is a log that nobody reads.
func discard(tb testing.TB) *logging.Log {
	tb.Helper()
	out := logging.New(io.Discard, false)
	tb.Cleanup(out.Close)
	return out
}

// newPipeline makes what stands between the tap and the kernel, as the daemon
// has it.
func newPipeline(tb testing.TB) *daemon {
	tb.Helper()
	return newPipelineOf(tb, bpftest.Namespace(tb), "mode = \"filter\"")
}

func newPipelineOf(tb testing.TB, ns *netns.Namespace, mode string) *daemon {
	tb.Helper()
	cfg, err := config.Parse("test", []byte("[gate]\n"+mode+"\n"))
	must(tb, err)
	out := discard(tb)
	log := out.Logger
	d := &daemon{opts: Options{Config: cfg}, log: log, out: out, hub: control.NewHub()}
	d.config.Store(cfg)
	if d.keeper, err = keeper.Open(filepath.Join(tb.TempDir(), "state.db"), cfg.Retain, time.Now(), log); err != nil {
		tb.Fatal(err)
	}
	eng := engine.New(engine.Config{Services: cfg.Services, Grants: cfg.Grants(), Rules: cfg.Rules()})
	if _, err := eng.SetHost(time.Now(), authz.Host{}); err != nil {
		tb.Fatal(err)
	}
	bpftest.Do(tb, ns, func() error {
		if d.gate, err = gate.Open(cfg, nil, log, d.hub); err != nil {
			return err
		}
		d.cutter = openCutter(settingsOf(&cfg.Gate), log)
		d.files, d.tls = newFiles(cfg, log), &livetap.TLS{}
		d.owner = newOwner(eng, d)
		d.owner.tls = d.tls
		return d.gate.Begin(nil, d.gate.Project(d.owner.grants(), time.Now()))
	})
	d.connect()
	return d
}

// play runs the pipeline until all logins have been played, and the gate holds
// what they opened.
func (d *daemon) play(tb testing.TB, p *player) (longest int64) {
	tb.Helper()
	p.woken = make(chan struct{}, 1)
	p.start = time.Now()
	d.owner.tap = p
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	played := make(chan struct{})
	p.done = func() { close(played) }
	var g errgroup.Group
	for _, run := range []func(context.Context) error{d.owner.run, d.gate.Run, d.gate.Watch, d.keeper.Run} {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error {
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				longest = max(longest, d.gate.Queued())
			case <-played:
				return d.gate.Settle(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		tb.Fatal(err)
	}
	return longest
}

// TestPipelineHoldsWhoLoggedIn plays logins flat out: each is granted, and in
// the kernel.
func TestPipelineHoldsWhoLoggedIn(t *testing.T) {
	d := newPipeline(t)
	const count = 20_000
	d.play(t, &player{count: count})
	if n := d.owner.grants().Len(); n != count {
		t.Errorf("%d grants, want %d", n, count)
	}
	held, err := d.gate.Read()
	if err != nil || len(held) != count {
		t.Errorf("the kernel holds %d elements, %v, want %d", len(held), err, count)
	}
	must(t, d.close())
}

// BenchmarkPipeline says what a login costs from the tap's event to the element
// in the kernel and the record on the disk, beside so many grants.
func BenchmarkPipeline(b *testing.B) {
	for _, held := range []int{0, 1000, 30_000, 1_000_000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			d := newPipeline(b)
			if held > 0 {
				d.play(b, &player{count: held})
			}
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			before := spent(b)
			d.play(b, &player{first: held, count: b.N})
			b.StopTimer()
			b.ReportMetric(float64((spent(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
			must(b, d.close())
		})
	}
}

// spent is the processor time of this process, in user space and in the kernel.
func spent(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	must(tb, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPipelineKeepsUp plays 20,000 logins a second: how far the pipeline is
// behind, and how long the queue of the gate gets.
func BenchmarkPipelineKeepsUp(b *testing.B) {
	const rate = 20_000
	d := newPipeline(b)
	p := &player{gap: time.Second / rate, count: max(b.N, 1000)}
	longest := d.play(b, p)
	slices.Sort(p.lags)
	b.ReportMetric(float64(p.count)/time.Since(p.start).Seconds(), "logins/s")
	b.ReportMetric(p.lags[len(p.lags)/2].Seconds()*1e3, "ms-behind-p50")
	b.ReportMetric(p.lags[len(p.lags)*99/100].Seconds()*1e3, "ms-behind-p99")
	b.ReportMetric(p.lags[len(p.lags)-1].Seconds()*1e3, "ms-behind-max")
	b.ReportMetric(float64(longest), "queue-max")
	must(b, d.close())
}

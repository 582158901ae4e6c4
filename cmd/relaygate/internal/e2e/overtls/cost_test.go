//go:build e2e

package overtls

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"relaygate/cmd/relaygate/internal/e2e/layer"
)

const (
	mailSize  = 64 << 20 // octets
	downloads = 4        // of that mail in one go: 256 MiB
	rounds    = 5        // of such a go without and one with relaygate
)

// cpuOf is the processor time of all processes that were ever in the server's cgroup.
func cpuOf(t *testing.T, s *layer.Server) time.Duration {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Cgroup(), "cpu.stat"))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			must(t, err)
			return time.Duration(usec) * time.Microsecond
		}
	}
	t.Fatalf("no usage in %s", b)
	return 0
}

// TestCost downloads a big mail over TLS with and without relaygate, in turn,
// and prints what the server's processes, relaygate and its programs spent.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	w := newWorld(t)
	s := w.startBusyDovecot(t)
	https := netip.AddrPortFrom(atHTTPS.v4, 443)
	w.start(t, "https", "", "openssl", "s_server", "-accept", https.String(), "-cert", w.cert, "-key", w.key, "-www", "-quiet")
	mail := append([]byte("Subject: big\r\n\r\n"), bytes.Repeat([]byte(strings.Repeat("0123456789", 7)+"\r\n"), mailSize/72)...)
	dir := filepath.Join(w.dir, "dovecot-busy", "mail", "new")
	must(t, os.WriteFile(filepath.Join(dir, "1.big"), mail, 0o644))
	w.download(t, 1) // warm

	var ratios []float64
	var without, with, agent time.Duration
	for range rounds {
		before := cpuOf(t, s)
		w.download(t, downloads)
		bare := cpuOf(t, s) - before

		known := programs(t)
		a := w.startAgent(t)
		w.attached(t, a)
		before = cpuOf(t, s)
		own := a.cpu(t)
		w.download(t, downloads)
		probed := cpuOf(t, s) - before
		agent += a.cpu(t) - own
		ratios = append(ratios, float64(probed)/float64(bare))
		without, with = without+bare, with+probed
		if len(ratios) == rounds {
			w.spent(t, known)
		}
		must(t, a.stop())
	}
	slices.Sort(ratios)
	gib := time.Duration(rounds*downloads*mailSize) / (1 << 30)
	t.Logf("1 GiB of mail over TLS: Dovecot's CPU × %.3f, the median of %.3f (%v without and %v with relaygate); relaygate itself %v",
		ratios[rounds/2], ratios, without/gib, with/gib, agent/gib)
}

// programs finds relaygate's programs in the kernel, of all agents on this host.
func programs(t *testing.T) map[ebpf.ProgramID]string {
	t.Helper()
	found := make(map[ebpf.ProgramID]string)
	id := ebpf.ProgramID(0)
	for {
		var err error
		id, err = ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return found
		}
		must(t, err)
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it is gone
		}
		if info, err := p.Info(); err == nil && strings.HasPrefix(info.Name, "relaygate_") {
			found[id] = info.Name
		}
		p.Close()
	}
}

// spent prints what the programs of the newest agent take per packet and call, while
// a mail is downloaded and while web pages are.
func (w *world) spent(t *testing.T, older map[ebpf.ProgramID]string) {
	t.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(t, err)
	defer stats.Close()
	for _, one := range []struct {
		what string
		do   func()
	}{
		{"a mail of 64 MiB", func() { w.download(t, 1) }},
		{"100 web pages from another port", func() {
			for range 100 {
				must(t, w.page())
			}
		}},
	} {
		before := runs(t, older)
		one.do()
		after := runs(t, older)
		for _, name := range slices.Sorted(maps.Keys(after)) {
			n, took := after[name].n-before[name].n, after[name].took-before[name].took
			if n > 0 {
				t.Logf("%s: %s ran %d times, %d ns each", one.what, name, n, took.Nanoseconds()/int64(n))
			}
		}
	}
}

// run is how often and how long a program ran.
type run struct {
	n    uint64
	took time.Duration
}

// runs sums over the programs of a name.
func runs(t *testing.T, older map[ebpf.ProgramID]string) map[string]run {
	t.Helper()
	sums := make(map[string]run)
	for id, name := range programs(t) {
		if older[id] != "" {
			continue
		}
		p, err := ebpf.NewProgramFromID(id)
		must(t, err)
		stats, err := p.Stats()
		must(t, err)
		p.Close()
		sums[name] = run{sums[name].n + stats.RunCount, sums[name].took + stats.Runtime}
	}
	return sums
}

// cpu is the processor time of the daemon (proc_pid_stat(5), fields 14 and 15,
// in hundredths of a second).
func (a *agent) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var sum int64
	for _, v := range f[11:13] {
		n, err := strconv.ParseInt(v, 10, 64)
		must(t, err)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// download logs in and fetches the mail some times.
func (w *world) download(t *testing.T, times int) {
	t.Helper()
	v := w.open(t, service{"dovecot-busy", atBusy, 993, imap, true})
	defer v.Close()
	must(t, v.SetDeadline(time.Now().Add(2*time.Minute)))
	v.r = bufio.NewReaderSize(v.Conn, 1<<16)
	_, err := v.ask("a1 LOGIN "+v.user+" "+right, "a1 OK")
	must(t, err)
	_, err = v.ask("a2 SELECT INBOX", "a2 OK")
	must(t, err)
	for range times {
		must(t, v.say("a3 FETCH 1 BODY.PEEK[]"))
		line, err := v.r.ReadString('\n')
		must(t, err)
		size, err := strconv.ParseInt(strings.Trim(line[strings.IndexByte(line, '{'):], "{}\r\n"), 10, 64)
		must(t, err)
		_, err = io.CopyN(io.Discard, v.r, size)
		must(t, err)
		_, err = v.answer("a3 OK")
		must(t, err)
	}
}

//go:build e2e

package overtls

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	mailSize  = 64 << 20 // octets
	downloads = 16       // of that mail: 1 GiB
)

// cpu is the processor time of all processes that were ever in the server's cgroup.
func (s *server) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.cgroup, "cpu.stat"))
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
// and prints what the server's processes and relaygate spent.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	w := newWorld(t)
	s := w.startBusyDovecot(t)
	mail := append([]byte("Subject: big\r\n\r\n"), bytes.Repeat([]byte(strings.Repeat("0123456789", 7)+"\r\n"), mailSize/72)...)
	dir := filepath.Join(w.dir, "dovecot-busy", "mail", "new")
	must(t, os.WriteFile(filepath.Join(dir, "1.big"), mail, 0o644))
	w.download(t, 1) // warm

	var with, without, agent time.Duration
	for range 2 {
		before := s.cpu(t)
		w.download(t, downloads)
		without += s.cpu(t) - before

		a := w.startAgent(t)
		w.attached(t, a)
		before = s.cpu(t)
		own := a.cpu(t)
		w.download(t, downloads)
		with += s.cpu(t) - before
		agent += a.cpu(t) - own
		must(t, a.stop())
	}
	gib := time.Duration(2)
	t.Logf("1 GiB of mail over TLS: Dovecot spent %v without and %v with relaygate (× %.3f); relaygate itself %v",
		without/gib, with/gib, float64(with)/float64(without), agent/gib)
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
	must(t, v.say("a1 LOGIN %s %s", v.user, right))
	_, err := v.answer("a1 OK")
	must(t, err)
	must(t, v.say("a2 SELECT INBOX"))
	_, err = v.answer("a2 OK")
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

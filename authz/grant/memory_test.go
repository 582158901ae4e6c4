package grant

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

// million logs in n users, each from an address of its own.
func million(table *Table, n int) {
	v := login("203.0.113.7", "")
	v.Conn.Client = netip.AddrPort{}
	for i := range n {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		if i%4 == 3 { // some come by IPv6
			a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		}
		v.Conn.Client = netip.AddrPortFrom(a, 51234)
		v.User = "user" + strconv.Itoa(i) + "@example.org"
		table.Login(at(time.Duration(i)*time.Millisecond), v)
	}
}

const alone = "RELAYGATE_TEST_MILLION"

// The core of a grant is small, and so is a process that holds a million of
// them with a million users: a fresh one tells.
func TestMillionGrants(t *testing.T) {
	if testing.Short() {
		t.Skip("a million grants take a second")
	}
	if os.Getenv(alone) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMillionGrants$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	const n = 1_000_000
	// The collector has nothing to look at in a table: it may come often.
	defer debug.SetGCPercent(debug.SetGCPercent(8))
	before := heap()
	table := newTable(t, Config{})
	million(table, n)
	resident := rss(t)
	perGrant := float64(heap()-before) / n
	if table.Len() != n {
		t.Fatalf("%d grants", table.Len())
	}
	core := float64(len(table.entries.chunks)*chunkRows*40+cap(table.entries.heads)*4+len(table.due.chunks)*chunkRows*8) / n
	t.Logf("%d grants: core %.1f B, with the accounts of their users %.1f B each", n, core, perGrant)
	if core > 80 || perGrant > 80 {
		t.Errorf("more than 80 B per grant")
	}
	before = heap()
	filled := newTable(t, Config{})
	million(filled, filled.cfg.MaxDetails)
	t.Logf("%d grants that can be explained: %.0f B each", filled.cfg.MaxDetails, float64(heap()-before)/float64(filled.cfg.MaxDetails))
	runtime.KeepAlive(filled)
	t.Logf("resident %.1f MB when the last was granted", float64(resident)/1e6)
	if resident > 90e6 {
		t.Errorf("more than 90 MB resident")
	}
	runtime.KeepAlive(table)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// rss is what the process has resident, in bytes.
func rss(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func BenchmarkLogin(b *testing.B) {
	for _, n := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			table := newTable(b, Config{MaxGrants: 1 << 21})
			million(table, n)
			now, i := at(time.Hour/4), 0
			v := make([]authz.Verdict, 1<<14)
			for i := range v {
				v[i] = login(netip.AddrFrom4([4]byte{12, 0, byte(i >> 8), byte(i)}).String(), "new"+strconv.Itoa(i))
			}
			b.ReportAllocs()
			for b.Loop() {
				if i++; i%len(v) == 0 { // forget them: each login is a new grant
					b.StopTimer()
					table.Revoke(now, netip.MustParsePrefix("12.0.0.0/16"), "", "")
					b.StartTimer()
				}
				table.Login(now, v[i%len(v)])
			}
		})
	}
}

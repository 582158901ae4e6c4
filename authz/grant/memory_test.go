package grant

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

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

// alone is set in the process that measures itself.
const alone = "RELAYGATE_TEST_MILLION"

// figures are what a fresh process with a million grants and as many users
// measures: bytes per grant of the core, of everything in the table, per grant
// of the details, and what the process has resident.
type figures struct {
	Core, Grant, Detail float64
	Resident            int
}

// measure runs this program once more, with nothing but the grants.
func measure(t testing.TB) (f figures) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMillionAlone$", "-test.v")
	cmd.Env = append(os.Environ(), alone+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "figures ")
	if err := json.NewDecoder(strings.NewReader(rest)).Decode(&f); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return f
}

// The core of a grant is small, and so is a process that holds a million of
// them with a million users.
func TestMillionGrants(t *testing.T) {
	if testing.Short() {
		t.Skip("a million grants take a second")
	}
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector needs memory of its own")
	}
	f := measure(t)
	t.Logf("per grant: core %.1f B, whole table %.1f B, details %.0f B where there are; resident %.1f MB", f.Core, f.Grant, f.Detail, float64(f.Resident)/1e6)
	if f.Core > 80 || f.Grant > 80 || f.Resident > 90e6 {
		t.Errorf("want at most 80 B per grant and 90 MB resident")
	}
}

func BenchmarkMillionGrants(b *testing.B) {
	var f figures
	for b.Loop() {
		f = measure(b)
	}
	b.ReportMetric(f.Core, "core-B/grant")
	b.ReportMetric(f.Grant, "B/grant")
	b.ReportMetric(f.Detail, "B/detail")
	b.ReportMetric(float64(f.Resident)/1e6, "resident-MB")
}

func TestMillionAlone(t *testing.T) {
	if os.Getenv(alone) == "" {
		return // it is for measure
	}
	const n = 1_000_000
	// The collector has nothing to look at in a table: it may come often.
	defer debug.SetGCPercent(debug.SetGCPercent(8))
	var f figures
	before := heap()
	table := newTable(t, Config{})
	million(table, n)
	f.Resident = rss(t)
	f.Grant = float64(heap()-before) / n
	if table.Len() != n {
		t.Fatalf("%d grants", table.Len())
	}
	f.Core = float64(len(table.entries.chunks)*chunkRows*int(unsafe.Sizeof(entry{}))+cap(table.entries.heads)*4+
		len(table.due.chunks)*chunkRows*int(unsafe.Sizeof(timer{}))) / n
	details := len(table.details)
	clear(table.details)
	table.details = nil
	f.Detail = (f.Grant*n - float64(heap()-before)) / float64(details)
	runtime.KeepAlive(table)
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figures %s\n", data)
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

func BenchmarkRenew(b *testing.B) {
	table := newTable(b, Config{MaxAddresses: 1 << 20})
	var clients []authz.Verdict
	for i := range 100_000 {
		v := login(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}).String(), fmt.Sprint("user", i))
		table.Login(start, v)
		clients = append(clients, v)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		table.Login(at(time.Duration(i)), clients[i%len(clients)])
	}
}

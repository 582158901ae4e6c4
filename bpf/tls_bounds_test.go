package bpf_test

import (
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// wantLost reads until a connection is lost, and then nothing more of it.
func wantLost(t *testing.T, tap *bpf.Tap, reason bpf.Reason, more func()) []seen {
	t.Helper()
	got := collect(t, tap, kind(bpf.Lost))
	if lost := got[len(got)-1]; lost.Reason != reason {
		t.Errorf("lost because %v, want %v", lost.Reason, reason)
	}
	more()
	if rest := rest(t, tap); len(rest) != 0 {
		t.Errorf("after Lost: %+v", rest)
	}
	return got
}

// TestPlainRingFull fills the ring in the middle of a login with nobody
// reading.
func TestPlainRingFull(t *testing.T) {
	d, ns, tap := opensslTap(t, func(o *bpf.Options) { o.RingBytes = uint32(2 * os.Getpagesize()) })
	attach(t, tap, d, d.serve(t, ns, addr))
	c := dialTLS(t, ns, addr)
	cookie := cookieOf(t, rest(t, tap), c)
	must(t, tap.SetEncrypted(cookie))
	rest(t, tap)
	for range 10 {
		c.say(t, "NOOP "+strings.Repeat("x", 1000)+"\r\n")
	}
	got := wantLost(t, tap, bpf.RingFull, func() { c.say(t, "PASS a\r\n") })
	if count(got, bpf.Plain) == 0 {
		t.Error("nothing came before the ring was full: the test proves nothing")
	}
	if counters := tlsCounters(t, tap); counters.PlainLost != 1 {
		t.Errorf("counters are %+v", counters)
	}
}

// TestPlainLostUntold has the server say too much while there is no room to tell of that,
// and user space end the recording of the packets and write over the mark.
func TestPlainLostUntold(t *testing.T) {
	d, ns, tap := opensslTap(t, func(o *bpf.Options) { o.RingBytes = 32 << 20 }) // only the other ring fills
	attach(t, tap, d, d.serve(t, ns, addr, "big"))
	c := dialTLS(t, ns, addr)
	cookie := cookieOf(t, collect(t, tap, kind(bpf.Handshake)), c)
	must(t, tap.SetEncrypted(cookie))
	fillEvents(t, tap, ns, "127.0.0.3:61143")
	say := func(line string) {
		t.Helper()
		patient(t, c)
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 40000)); err != nil {
			t.Fatal(err)
		}
	}
	// What is lost is the end of an answer: the server calls nothing before the next line.
	before := counters(t, tap).EventsFull
	for calls := uint64(2); counters(t, tap).EventsFull == before; calls += 2 {
		say("a1 NOOP\r\n")
		for all := tlsCounters(t, tap); all.Plain+all.PlainLost < calls; all = tlsCounters(t, tap) {
			runtime.Gosched()
		}
	}
	if !tap.Overwrite(t, cookie) {
		t.Error("the connection was not lost: the test proves nothing")
	}
	for _, r := range rest(t, tap) {
		if r.Kind == bpf.Lost && r.Cookie == cookie {
			t.Fatalf("there was room for %+v: the test proves nothing", r)
		}
	}
	say("a1 LOGIN alice guess\r\n")
	got := wantLost(t, tap, bpf.AttachedLate, func() { say("a2 NOOP\r\n") })
	if text := plainOf(got, cookie); text != "" {
		t.Errorf("then the client said %q", text)
	}
}

// TestPlainTooMuch has a client say more in one piece than it may, and one say
// much over time.
func TestPlainTooMuch(t *testing.T) {
	d, ns, tap := opensslTap(t)
	attach(t, tap, d, d.serve(t, ns, addr))
	c := dialTLS(t, ns, addr)
	cookie := cookieOf(t, collect(t, tap, kind(bpf.Handshake)), c)
	must(t, tap.SetEncrypted(cookie))
	c.say(t, strings.Repeat("x", 8193))
	wantLost(t, tap, bpf.PlainUnanswered, func() { c.say(t, "STAT\r\n") })

	c = dialTLS(t, ns, addr)
	cookie = cookieOf(t, collect(t, tap, kind(bpf.Handshake)), c)
	must(t, tap.SetEncrypted(cookie))
	for range 20 {
		c.say(t, strings.Repeat("x", 8000)) // answered each time
	}
	wantLost(t, tap, bpf.PlainFull, func() { c.say(t, "STAT\r\n") })
}

// TestPlainBigAnswer has the server write more in one call than a record holds.
func TestPlainBigAnswer(t *testing.T) {
	d, ns, tap := opensslTap(t)
	attach(t, tap, d, d.serve(t, ns, addr, "big"))
	c := dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	if _, err := io.ReadFull(c, make([]byte, 40000-len("+OK USER a\r\n"))); err != nil {
		t.Fatal(err)
	}
	got := answers(t, tap, 1)
	last := got[len(got)-1]
	if last.WireLen != 40000 || len(last.payload) < 16000 || len(last.payload) > 16384 || !strings.HasPrefix(last.payload, "+OK USER a\r\n") {
		t.Errorf("%d of %d bytes are recorded", len(last.payload), last.WireLen)
	}
	if counters := tlsCounters(t, tap); counters.PlainTruncated != 1 {
		t.Errorf("counters are %+v", counters)
	}
}

// TestDeadCalls kills processes within a call.
func TestDeadCalls(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr, "fork")
	attach(t, tap, d, server)
	const clients = 3
	for i := range clients {
		c := dialTLS(t, ns, addr)
		c.say(t, "USER a\r\n")
		got := answers(t, tap, 1)
		child := got[len(got)-1].TGID
		// It goes on to read the next command.
		for deadline := time.Now().Add(20 * time.Second); tap.Calls(t) <= i; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%d calls are under way, want %d", tap.Calls(t), i+1)
			}
		}
		must(t, unix.Kill(int(child), unix.SIGKILL))
		if _, err := c.Read(make([]byte, 1)); err == nil { // the end of the process
			t.Error("the server's process said more")
		}
		// A process closes its connections before it is gone.
		for deadline := time.Now().Add(20 * time.Second); unix.Kill(int(child), 0) == nil; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("process %d does not end", child)
			}
		}
	}
	must(t, tap.SetServers([]bpf.ServerProcess{server}))
	if n := tap.Calls(t); n != 0 {
		t.Errorf("%d calls of dead processes are kept", n)
	}
}

// TestOneFileTwice has two sets of probes on one file, as on a layer that two
// containers share: each call is told once.
func TestOneFileTwice(t *testing.T) {
	for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
		t.Run(kind.String(), func(t *testing.T) {
			d := buildTLSD(t, kind)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			server := d.serve(t, ns, addr)
			attach(t, tap, d, server)
			second := attach(t, tap, d, server)
			third, err := tap.AttachLibraryBy(bpf.ByPerf, d.library)
			must(t, err)
			c := dialTLS(t, ns, addr)
			c.say(t, "USER a\r\n")
			got := answers(t, tap, 1)
			cookie := cookieOf(t, got, c)
			bpftest.Close(t, second)
			c.say(t, "PASS a\r\n")
			got = append(got, answers(t, tap, 1)...)
			bpftest.Close(t, third)
			c.say(t, "STAT\r\n")
			got = append(got, answers(t, tap, 1)...)
			want := "C:USER a\r\nS:+OK USER a\r\nC:PASS a\r\nS:+OK PASS a\r\nC:STAT\r\nS:+OK STAT\r\n"
			if text := plainOf(append(got, rest(t, tap)...), cookie); text != want {
				t.Errorf("the client said %q", text)
			}
		})
	}
}

func TestAttachRefuses(t *testing.T) {
	tap := load(t, bpftest.Namespace(t))
	functions := map[string]bpf.Function{"SSL_read": {Offset: 0x1000}, "SSL_write": {Offset: 0x2000}}
	far := map[string]bpf.Function{"SSL_read": {Offset: 1 << 40}, "SSL_write": {Offset: 1 << 40}}
	for _, test := range []struct {
		name string
		lib  bpf.Library
		want string
	}{
		{"no such file", bpf.Library{Path: "/proc/self/nothing", Kind: bpf.OpenSSL, Functions: functions}, "no such file"},
		{"no file", bpf.Library{Path: "/proc/self", Kind: bpf.OpenSSL, Functions: functions}, ""},
		{"no functions", bpf.Library{Path: "/proc/self/exe", Kind: bpf.OpenSSL}, bpf.ErrNoFunctions.Error()},
		{"another library's functions", bpf.Library{Path: "/proc/self/exe", Kind: bpf.GnuTLS, Functions: functions}, bpf.ErrNoFunctions.Error()},
		{"nothing that writes", bpf.Library{Path: "/proc/self/exe", Kind: bpf.OpenSSL, Functions: map[string]bpf.Function{"SSL_read": {}}}, bpf.ErrNoFunctions.Error()},
		{"no accessors", bpf.Library{Path: "/proc/self/exe", Kind: bpf.OpenSSL, Functions: functions}, "SSL_get_server_random forms the addresses []"},
		{"beyond the file", bpf.Library{Path: "/proc/self/exe", Kind: bpf.OpenSSL, Functions: far}, ""},
		{"no library", bpf.Library{Path: "/proc/self/exe", Functions: functions}, bpf.ErrNoFunctions.Error()},
	} {
		if probes, err := tap.AttachLibrary(test.lib); err == nil {
			bpftest.Close(t, probes)
			t.Errorf("%s: attached", test.name)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

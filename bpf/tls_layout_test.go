package bpf_test

import (
	"debug/elf"
	"runtime"
	"strings"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// TestOldLayout has objects like those of OpenSSL 1.1.1, and rarer functions.
func TestOldLayout(t *testing.T) {
	for _, test := range []struct {
		name   string
		option []string
		want   string
		early  bool
		length int // of what was written
	}{
		{"read and write", nil, "C:USER a\r\nS:+OK USER a\r\n", false, 12},
		{"early data, and _ex2", []string{"ex"}, "C:USER a\r\nS:+OK USER a\r\n", true, 12},
		{"sendfile", []string{"big"}, "C:USER a\r\nS:", false, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := buildTLSD(t, bpf.OpenSSL, "-DOLD")
			d.library = ownLibrary(t, d.program)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			probes := attach(t, tap, d, d.serve(t, ns, addr, test.option...))
			c := dialTLS(t, ns, addr)
			if _, err := c.Write([]byte("USER a\r\n")); err != nil {
				t.Fatal(err)
			}
			got := answers(t, tap, 1)
			if text := plainOf(got, cookieOf(t, got, c)); text != test.want {
				t.Errorf("the client said %q, want %q", text, test.want)
			}
			for _, r := range got {
				if r.Kind == bpf.Plain && !r.Egress && r.Early != test.early {
					t.Errorf("early data: %v, want %v", r.Early, test.early)
				}
			}
			if last := got[len(got)-1]; last.WireLen != test.length {
				t.Errorf("%d bytes were written, want %d", last.WireLen, test.length)
			}
			if !probes.Recognised() {
				t.Error("no handshake was recognised")
			}
		})
	}
}

// TestUnreadObject has an object that cannot be read, as if its page were
// swapped out: whose call was missed is not known.
func TestUnreadObject(t *testing.T) {
	const hiding = "127.0.0.2:61143"
	d := buildTLSD(t, bpf.OpenSSL, "-DOLD")
	d.library = ownLibrary(t, d.program)
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	attach(t, tap, d, d.serve(t, ns, addr), d.serve(t, ns, hiding, "hide"))
	c := dialTLS(t, ns, addr) // teaches the offset
	c.say(t, "USER a\r\n")
	answers(t, tap, 1)
	dialTLS(t, ns, hiding).say(t, "USER b\r\n")
	got := collect(t, tap, kind(bpf.Lost))
	if lost := got[len(got)-1]; lost.Cookie != 0 || lost.Reason != bpf.ObjectUnread {
		t.Errorf("lost is %+v", lost)
	}
	if n := count(got, bpf.Plain); n != 0 {
		t.Errorf("%d plaintexts of an object that cannot be read", n)
	}
}

// TestUnreadUntold has such an object while the ring of events is full: nobody can be
// told, and yet nobody who shook hands before is believed.
func TestUnreadUntold(t *testing.T) {
	const hiding, idle = "127.0.0.2:61143", "127.0.0.3:61143"
	d := buildTLSD(t, bpf.OpenSSL, "-DOLD")
	d.library = ownLibrary(t, d.program)
	ns := bpftest.Namespace(t)
	tap := load(t, ns, func(o *bpf.Options) { o.RingBytes = 32 << 20 }) // the other ring does not fill
	attach(t, tap, d, d.serve(t, ns, addr), d.serve(t, ns, hiding, "hide"))
	c := dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	cookie := cookieOf(t, answers(t, tap, 1), c)
	hidden := dialTLS(t, ns, hiding)
	fillEvents(t, tap, ns, idle)
	hidden.say(t, "USER b\r\n")
	for tlsCounters(t, tap).Unread < 2 { // what it read, and then what it wrote
		runtime.Gosched()
	}
	for _, r := range rest(t, tap) {
		if r.Kind == bpf.Lost {
			t.Fatalf("there was room for %+v: the test proves nothing", r)
		}
	}
	c.say(t, "PASS a\r\n")
	if got := wantLost(t, tap, bpf.AttachedLate, func() { c.say(t, "STAT\r\n") }); plainOf(got, cookie) != "" {
		t.Errorf("then the client said %q", plainOf(got, cookie))
	}
	c = dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	got := answers(t, tap, 1)
	if text := plainOf(got, cookieOf(t, got, c)); text != "C:USER a\r\nS:+OK USER a\r\n" {
		t.Errorf("a new client said %q", text)
	}
}

// fillEvents leaves no room in the ring of events.
func fillEvents(t *testing.T, tap *bpf.Tap, ns *netns.Namespace, addr string) {
	t.Helper()
	l := bpftest.Listen(t, ns, "tcp", addr)
	for before := counters(t, tap); counters(t, tap).EventsFull == before.EventsFull; {
		one := bpftest.Dial(t, ns, addr)
		bpftest.Close(t, bpftest.Accept(t, l))
		bpftest.Close(t, one)
	}
}

// ownLibrary takes a program's own functions for a library's.
func ownLibrary(t *testing.T, program string) bpf.Library {
	t.Helper()
	f, err := elf.Open(program)
	must(t, err)
	defer bpftest.Close(t, f)
	all, err := f.Symbols()
	must(t, err)
	var symbols []elf.Symbol
	for _, s := range all {
		if rest, ok := strings.CutPrefix(s.Name, "old_"); ok {
			s.Name = "SSL_" + rest
			symbols = append(symbols, s)
		}
	}
	return libraryIn(t, bpf.OpenSSL, program, f, symbols)
}

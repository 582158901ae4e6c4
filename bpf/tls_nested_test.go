package bpf_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestWriteInsideRead has a server greet from within the read that shakes hands, as
// those in Node.js do: what it wrote is told before what it read.
func TestWriteInsideRead(t *testing.T) {
	for _, options := range [][]string{{"tls12"}, {"tls12", "ex"}, {}} {
		t.Run(fmt.Sprint(options), func(t *testing.T) {
			d, ns, tap := opensslTap(t)
			attach(t, tap, d, d.serve(t, ns, addr, append(options, "lazy", "inside")...))
			c := dialTLS(t, ns, addr)
			patient(t, c)
			if _, err := io.ReadFull(c, make([]byte, len("+OK ready\r\n"))); err != nil {
				t.Fatal(err)
			}
			c.say(t, "USER a\r\n")
			c.say(t, "PASS a\r\n")
			got := answers(t, tap, 3)
			const want = "S:+OK ready\r\nC:USER a\r\nS:+OK USER a\r\nC:PASS a\r\nS:+OK PASS a\r\n"
			if text := plainOf(got, cookieOf(t, got, c)); text != want {
				t.Errorf("told is %q, want %q", text, want)
			}
			if n := tlsCounters(t, tap).Unseen; n != 0 {
				t.Errorf("%d calls were not seen whole", n)
			}
		})
	}
}

// TestReadInsideWrite has a server read from within a write, and from within what it
// writes from within a read: of that nothing is told.
func TestReadInsideWrite(t *testing.T) {
	for _, test := range []struct{ options, says []string }{
		{[]string{"deep"}, []string{"USER a\r\n", "X"}},
		{[]string{"deep", "inside"}, []string{"XUSER a\r\n"}},
	} {
		t.Run(fmt.Sprint(test.options), func(t *testing.T) {
			d := buildTLSD(t, bpf.OpenSSL, "-DOLD")
			d.library = ownLibrary(t, d.program)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			attach(t, tap, d, d.serve(t, ns, addr, test.options...))
			c := dialTLS(t, ns, addr)
			for _, text := range test.says {
				if _, err := io.WriteString(c, text); err != nil {
					t.Fatal(err)
				}
			}
			got := wantLost(t, tap, bpf.CallUnseen, func() {
				if _, err := io.ReadFull(c, make([]byte, len("+OK USER a\r\n"))); err != nil {
					t.Fatal(err)
				}
			})
			if text := plainOf(got, cookieOf(t, got, c)); strings.Contains(text, "S:") {
				t.Errorf("told is %q behind a call that is not", text)
			}
		})
	}
}

// TestCoroutines has a server leave a read for one on another stack, as those in Crystal
// do: it lives, and of whose call is not known nothing is told. (The kernel would have ended
// the process, or led it astray.)
func TestCoroutines(t *testing.T) {
	if err := bpf.HaveUprobeSession(); errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err) // then any return is awaited
	}
	for _, option := range []string{"turns", "below"} {
		t.Run(option, func(t *testing.T) {
			d := buildTLSD(t, bpf.OpenSSL, "-DOLD")
			d.library = ownLibrary(t, d.program)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			attach(t, tap, d, d.serve(t, ns, addr, option))
			a, b := dialTLS(t, ns, addr), dialTLS(t, ns, addr)
			for range 5 {
				a.say(t, "USER a\r\n")
				b.say(t, "USER b\r\n")
			}
			got := rest(t, tap)
			if text := plainOf(got, cookieOf(t, got, b)); text != "" {
				t.Errorf("of the second client is told %q", text)
			}
			if count(got, bpf.Lost) == 0 {
				t.Error("nobody was lost")
			}
		})
	}
}

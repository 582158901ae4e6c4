package bpf_test

import (
	"fmt"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestWhatWakesInTLS has a client say something through TLS: as in clear text it
// wakes the reader only if the answer could end a login, and after the verdict
// nothing does, and nothing is told.
func TestWhatWakesInTLS(t *testing.T) {
	for _, kind := range []bpf.LibraryKind{bpf.OpenSSL, bpf.GnuTLS} {
		t.Run(kind.String(), func(t *testing.T) {
			d := buildTLSD(t, kind)
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			attach(t, tap, d, d.serve(t, ns, addr))
			c := dialTLS(t, ns, addr)
			cookie := cookieOf(t, rest(t, tap), c)
			must(t, tap.SetEncrypted(cookie))
			rest(t, tap)
			tap.Linger()
			end := asleep(t, tap)
			// The client can have the answer before the call ends that wrote it.
			told := func(n uint64) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); tlsCounters(t, tap).Plain < n; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%d calls were told, want %d", tlsCounters(t, tap).Plain, n)
					}
				}
			}
			before := counters(t, tap)
			c.say(t, "CAPA\r\n")
			c.say(t, "USER a\r\n")
			told(4)
			if got := counters(t, tap).Wakeups; got != before.Wakeups {
				t.Errorf("what can end in no login woke the reader %d times", got-before.Wakeups)
			}
			c.say(t, "PASS a\r\n")
			told(6)
			if got := counters(t, tap).Wakeups - before.Wakeups; got < 1 || got > 2 {
				t.Errorf("the password and its answer woke the reader %d times", got)
			}
			sleeps(t, tap)

			must(t, tap.SetDone(cookie))
			before, plain := counters(t, tap), tlsCounters(t, tap)
			for i := range 100 {
				c.say(t, fmt.Sprintf("RETR %d\r\n", i))
			}
			if got := counters(t, tap); got != before {
				t.Errorf("after the verdict the counters went from %+v to %+v", before, got)
			}
			if got := tlsCounters(t, tap); got != plain {
				t.Errorf("after the verdict the counters went from %+v to %+v", plain, got)
			}
			if got := end(); len(got) != 0 {
				t.Errorf("packets were told in TLS: %q", got)
			}
		})
	}
}

package logging

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz/grant"
)

// limited logs through a limit into a buffer; lines counts what came since the last
// time.
func limited(t *testing.T) (log *slog.Logger, limit *limiter, lines func() (int, string)) {
	t.Helper()
	var b bytes.Buffer
	limit = newLimiter(slog.NewTextHandler(&b, nil))
	return slog.New(limit), limit, func() (int, string) {
		synctest.Wait()
		limit.mu.Lock() // under which lines are written
		defer limit.mu.Unlock()
		defer b.Reset()
		return strings.Count(b.String(), "\n"), b.String()
	}
}

func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, limit, lines := limited(t)
		lose := func(i int) {
			log.Warn("the gate was lost", "reason", fmt.Sprintf("process %d", i), "took", time.Duration(i))
		}
		for i := range 1000 {
			lose(i)
		}
		log.Error("another thing", "reason", "it has a line of its own")
		if n, text := lines(); n != burst+1 || !strings.Contains(text, "another thing") {
			t.Errorf("%d lines at once:\n%s", n, text)
		}
		<-time.After(hold + time.Second)
		if n, text := lines(); n != 1 || !strings.Contains(text, `"process 999"`) || !strings.Contains(text, fmt.Sprintf(`"lines like this one"=%d`, 1000-burst)) {
			t.Errorf("%d lines after a while:\n%s", n, text)
		}
		// It goes on for a day.
		for range 24 * 60 * 30 {
			lose(1)
			<-time.After(2 * time.Second)
		}
		if n, _ := lines(); n < 24 || n > 40 {
			t.Errorf("%d lines in a day", n)
		}
		<-time.After(2 * maxHold)
		lines()
		lose(1)
		if n, _ := lines(); n != 1 {
			t.Errorf("after a quiet time %d lines at once", n)
		}
		for range 2 * burst {
			lose(2)
		}
		lines()
		limit.close()
		if n, text := lines(); n != 1 || !strings.Contains(text, `one"=7`) {
			t.Errorf("%d lines at the end:\n%s", n, text)
		}
	})
}

// Whoever has many addresses keeps no other line from being written.
func TestAddressesAreNoKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, limit, lines := limited(t)
		for i := range 10 * maxKinds {
			log.Warn("braked", "address", fmt.Sprintf("2001:db8::%s", strings.Repeat("f", i)), "times", i)
		}
		log.Error("another thing")
		if n, text := lines(); n != burst+1 || !strings.Contains(text, "another thing") {
			t.Errorf("%d lines at once:\n%s", n, text)
		}
		limit.close()
	})
}

// Whoever logs in again and again, from ever more addresses or under ever more names, fills
// no log, and hides neither others' logins nor other lines.
func TestLoginsAreLimited(t *testing.T) {
	for _, kind := range []grant.Kind{grant.Refused, grant.Renewed} {
		synctest.Test(t, func(t *testing.T) {
			var b bytes.Buffer
			log := New(&b, false)
			login := func(kind grant.Kind, name string, i int) {
				log.Change(time.Now(), &grant.Change{Kind: kind, Reason: "too many addresses", Grant: grant.Grant{
					Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 32), Users: []grant.User{{Name: name}},
				}})
			}
			const many = 10_000
			for i := range many {
				login(kind, "alice", i)
			}
			login(kind, "bob", 1)
			for i := range many {
				login(kind, "web1", i)
			}
			login(kind, "web2", 1)
			login(kind, "web1", 1)
			for i := range many {
				login(kind, strings.Repeat("x", i), i)
			}
			for i := range maxKinds {
				login(grant.Granted, "carol", i)
			}
			log.Error("another thing")
			log.Close()
			text := b.String()
			if n, most := strings.Count(text, "\n"), 2*maxKinds+5*burst; n > most {
				t.Errorf("%v: %d lines, want %d at most", kind, n, most)
			}
			if n := strings.Count(text, "msg=granted"); n != maxKinds {
				t.Errorf("%v: of %d grants %d are told", kind, maxKinds, n)
			}
			for what, want := range map[string]string{
				"bob": "user=bob", "web2": "user=web2", "what is no login": "another thing", "how often": fmt.Sprintf(`one"=%d`, many-burst),
			} {
				if !strings.Contains(text, want) {
					t.Errorf("%v: the log does not tell %s", kind, what)
				}
			}
		})
	}
}

// Where many users renew their grants, as on any large host, one who is refused is told.
func TestRenewalsHideNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := New(&b, false)
		login := func(kind grant.Kind, name string) {
			log.Change(time.Now(), &grant.Change{Kind: kind, Grant: grant.Grant{Users: []grant.User{{Name: name}}}})
		}
		for i := range 2 * maxKinds {
			login(grant.Renewed, strings.Repeat("x", i+1))
		}
		login(grant.Refused, "bob")
		login(grant.Renewed, "alice")
		log.Close()
		if text := b.String(); !strings.Contains(text, "msg=refused user=bob") {
			t.Errorf("the log does not tell the refusal: %s", text[max(0, len(text)-200):])
		}
	})
}

// However many kinds there are, they are bounded; none is lost without a count.
func TestLogKindsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, limit, lines := limited(t)
		for i := range 10 * maxKinds {
			log.Warn("x" + strings.Repeat("x", i))
		}
		if len(limit.kinds) > maxKinds+1 {
			t.Errorf("%d kinds are kept", len(limit.kinds))
		}
		limit.close()
		n, text := lines()
		if want := fmt.Sprintf(`one"=%d`, 9*maxKinds-burst); n != maxKinds+burst+1 || !strings.Contains(text, want) {
			t.Errorf("%d lines, the last without %s", n, want)
		}
	})
}

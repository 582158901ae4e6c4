package lab_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// The time of a login that an agent reads late runs from the login: by then the
// address may be another's.
func TestLoginThatIsReadLate(t *testing.T) {
	t.Parallel()
	const lifetime = 6 * time.Second
	w := newWorld(t, lifetime, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	must(t, w.daemon.Freeze(t.Context()))
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	<-time.After(lifetime)
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	begin := time.Now()
	<-time.After(time.Second)
	must(t, w.daemon.Thaw())
	settles(t, time.Second, open(t.Context(), six))
	must(t, four.Refused(t.Context()))
	must(t, w.says(t, "why "+lab.Client4.String(), "may not relay", "came to know of the login too late")())
	closes(t, six, begin.Add(lifetime+tick))
}

// So it is with the end of a session: nothing is held for the time in which nobody
// looked.
func TestEndOfSessionThatIsReadLate(t *testing.T) {
	t.Parallel()
	const lifetime = 3 * time.Second
	w := newWorld(t, lifetime, "")
	four := w.Client4.At(lab.Server4)
	conn := session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	must(t, w.daemon.Freeze(t.Context()))
	must(t, conn.Close())
	<-time.After(lifetime + time.Second)
	must(t, four.Refused(t.Context()))
	must(t, w.daemon.Thaw())
	settles(t, time.Second, w.says(t, "list", "Nobody"))
	must(t, four.Refused(t.Context()))
}

// In a time namespace nothing is taken for earlier or later than it is, and a
// restart in another one neither lengthens nor ends a grant.
func TestShiftedClocks(t *testing.T) {
	const lifetime = 40 * time.Second
	for _, ahead := range []time.Duration{24 * time.Hour, -time.Minute} {
		w := newWorldWith(t, lab.Options{Lifetime: lifetime, Ahead: ahead, Config: "[watch]\ntls = \"off\"\n"})
		begin := time.Now()
		login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
		end := time.Now()
		settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
		must(t, w.says(t, "why "+lab.Client4.String(), "now  login", "now  granted")())
		w.saved(t)
		must(t, w.daemon.Kill())
		w.opts.Ahead = 0
		w.start(t)
		until := w.expires(t)[lab.Client4.String()]
		if until.Sub(begin) < lifetime-time.Second || until.Sub(end) > lifetime+time.Second {
			t.Errorf("with clocks shifted by %v, a restart makes of %v a grant for %v", ahead, lifetime, until.Sub(begin))
		}
	}
}

// A lifetime that is shorter at a start shortens what stood before: once, and not anew
// from each start on. Who logged in stays known.
func TestShorterLifetimeCountsFromItsFirstStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10*time.Minute, "")
	admit(t, w.Client4.At(lab.Server4))
	must(t, w.daemon.Stop())
	w.opts.Lifetime = time.Minute
	w.start(t)
	must(t, w.says(t, "list", lab.User)())
	first := w.expires(t)[lab.Client4.String()]
	w.saved(t)
	<-time.After(2 * time.Second)
	must(t, w.daemon.Kill())
	w.start(t)
	again := w.expires(t)[lab.Client4.String()]
	if d := again.Sub(first); d.Abs() > time.Second {
		t.Errorf("a grant that ran out at %v does so at %v after a crash: %v off", first, again, d)
	}
	must(t, w.says(t, "list", lab.User)())
}

// A file that is not named any more is emptied where a crash left lines in it. Where
// relaygate had ended well it has none, and may be another program's by now.
func TestFileOfACrashThatIsNamedNoMore(t *testing.T) {
	for _, crash := range []bool{true, false} {
		w := newWorld(t, time.Minute, "")
		login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
		line, former := lab.Client4.String()+"\n", w.daemon.Relayhosts
		settles(t, written, w.lists(line))
		w.saved(t)
		want := ""
		if crash {
			must(t, w.daemon.Kill())
		} else {
			must(t, w.daemon.Stop())
			want = "198.51.100.1\n"
			must(t, os.WriteFile(former, []byte(want), 0o600))
		}
		w.opts.Relayhosts = filepath.Join(t.TempDir(), "relayhosts")
		w.start(t)
		settles(t, written, w.lists(line))
		if held, err := os.ReadFile(former); err != nil || string(held) != want {
			t.Errorf("after a crash %v: the former file holds %q, %v, want %q", crash, held, err, want)
		}
	}
}

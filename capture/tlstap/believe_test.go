package tlstap

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz"
	"relaygate/capture/sockdiag"
)

func TestBelieve(t *testing.T) {
	const unit, session = "/system.slice/maild.service", "/user.slice/session-1.scope"
	for _, test := range []struct {
		name            string
		groups          [3]string // of the head (10), its child (11) and another child (12); empty: it has ended
		process, server uint32
		conn            func(*authz.Conn)
		want            string // part of the reason, "" if it is believed
		stranger        bool
	}{
		{"the head", [3]string{unit, unit, unit}, 10, 10, nil, "", false},
		{"a child", [3]string{unit, unit, unit}, 11, 10, nil, "", false},
		{"no control groups", [3]string{"/", "/", "/"}, 11, 10, nil, "", false},
		{"the child in the root", [3]string{unit, "/", unit}, 11, 10, nil, "", false},
		{"the head in the root", [3]string{"/", session, unit}, 11, 10, nil, "", false},
		{"no control groups, and a child that ended", [3]string{"/", "", unit}, 11, 10, nil, "", false},
		{"no server", [3]string{unit, unit, unit}, 10, 11, nil, "process 11 is no server", false},
		{"init", [3]string{unit, unit, unit}, 10, 1, nil, "process 1 is no server", false},
		{"nobody", [3]string{unit, unit, unit}, 0, 0, nil, "process 0 is no server", false},
		{"the server of another port", [3]string{unit, unit, unit}, 20, 20, nil, "process 20 does not hold", true},
		{"another port", [3]string{unit, unit, unit}, 10, 10, func(c *authz.Conn) { c.Server = pop3s }, "process 10 does not hold", true},
		{"another namespace", [3]string{unit, unit, unit}, 10, 10, func(c *authz.Conn) { c.Netns++ }, "process 10 does not hold", false},
		{"a login session", [3]string{unit, session, unit}, 11, 10, nil, `is in the control group "` + session, true},
		{"a group below", [3]string{unit, unit + "/user", unit}, 11, 10, nil, "is in the control group", true},
		{"a child that ended", [3]string{unit, "", unit}, 11, 10, nil, "ended before", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			for i, group := range test.groups {
				if group != "" {
					w.process(10+i, min(1, i)*9+1, "maild", group)
				}
			}
			w.process(20, 1, "popd", unit)
			w.tables.set(held(imaps, 1, 10), held(pop3s, 2, 20))
			w.scan(0)
			c := connection()
			if test.conn != nil {
				test.conn(&c)
			}
			for range 2 { // judged, then remembered
				ok, stranger, reason := w.finder.Believe(c, test.process, test.server)
				if stranger != test.stranger {
					t.Errorf("a stranger: %v, because %q", stranger, reason)
				}
				if ok != (test.want == "") || ok != (reason == "") || !strings.Contains(reason, test.want) {
					t.Errorf("believed %v because %q, want %q", ok, reason, test.want)
				}
			}
		})
	}
}

func TestBelieveBeforeTheFirstScan(t *testing.T) {
	w := newWorld(t)
	w.tables.set(held(imaps, 1, 10))
	if ok, _, reason := w.finder.Believe(connection(), 10, 10); ok || reason == "" {
		t.Errorf("believed %v because %q", ok, reason)
	}
}

// TestBelieveForgets changes what was judged.
func TestBelieveForgets(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(w *world)
	}{
		{"the listener goes", func(w *world) { w.tables.set() }},
		{"another process has the number", func(w *world) {
			l := held(imaps, 1, 10)
			l.Processes[0].Start++
			w.tables.set(l)
		}},
		{"a listener is doubted", func(w *world) { w.tables.set(sockdiag.Listener{Netns: here, Socket: sockdiag.Socket{Local: imaps}}) }},
		{"the process goes elsewhere", func(w *world) {
			w.process(11, 10, "maild", "/user.slice")
			<-time.NewTimer(beliefTime).C
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.process(10, 1, "maild", "/maild")
				w.process(11, 10, "maild", "/maild")
				w.tables.set(held(imaps, 1, 10))
				w.scan(0)
				if ok, _, reason := w.finder.Believe(connection(), 11, 10); !ok {
					t.Fatal(reason)
				}
				test.do(w)
				if ok, _, _ := w.finder.Believe(connection(), 11, 10); ok {
					t.Error("still believed")
				}
			})
		})
	}
}

func TestBeliefIsBounded(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/")
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	for i := range uint32(3 * beliefLimit) {
		w.finder.Believe(connection(), i, 10)
	}
	if n := len(w.finder.belief.judged); n > beliefLimit {
		t.Errorf("%d judgements are kept", n)
	}
}

func TestBelieveCostsNothing(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/")
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	c := connection()
	w.finder.Believe(c, 10, 10)
	if n := testing.AllocsPerRun(100, func() { w.finder.Believe(c, 10, 10) }); n != 0 {
		t.Errorf("%v allocations for what is known", n)
	}
}

func BenchmarkBelieve(b *testing.B) {
	f, err := New(Options{Tap: &fakeTap{}, Tables: &fakeTables{changed: make(chan struct{})}, Log: silent()})
	must(b, err)
	c := connection()
	for b.Loop() {
		f.Believe(c, 10, 10)
	}
}

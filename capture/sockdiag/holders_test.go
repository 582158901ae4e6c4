package sockdiag

import (
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"relaygate/authz"
)

// lookNow looks, and searches if that takes it.
func (t *Tables) lookNow() {
	if t.look() {
		t.search()
	}
}

// later is a look after some time.
func later(t *Tables, d time.Duration) {
	<-time.NewTimer(d).C
	t.lookNow()
}

func pids(list []Process) []int {
	var all []int
	for _, p := range list {
		all = append(all, p.PID)
	}
	return all
}

func same(a []int, b ...int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func remove(proc fstest.MapFS, pid string) {
	for name := range proc {
		if len(name) > len(pid) && name[:len(pid)+1] == pid+"/" {
			delete(proc, name)
		}
	}
}

func TestOwners(t *testing.T) {
	for _, test := range []struct {
		name      string
		listeners []Socket
		want      []int
	}{
		{"nobody listens", nil, nil},
		{"another port", []Socket{listener("0.0.0.0:144", 0, 1)}, nil},
		{"a user who is not trusted", []Socket{listener("0.0.0.0:143", 1000, 1)}, nil},
		{"trusted and not", []Socket{listener("0.0.0.0:143", 0, 1), listener("192.0.2.1:143", 1000, 2)}, nil},
		{"a forwarder besides", []Socket{listener("192.0.2.1:143", 0, 1), listener("0.0.0.0:143", 0, 3)}, nil},
		{"nobody holds it", []Socket{listener("0.0.0.0:143", 0, 99)}, nil},
		{"master and login process", []Socket{listener("0.0.0.0:143", 0, 1)}, []int{10, 11}},
		{"two on one port", []Socket{listener("0.0.0.0:143", 0, 1), listener("0.0.0.0:143", 0, 6)}, []int{10, 11, 23}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tables := tablesOf(&fakeTables{sockets: test.listeners})
				tables.lookNow()
				if got := pids(tables.Owners(server, here)); !same(got, test.want...) {
					t.Errorf("owners are %v, want %v", got, test.want)
				}
				if got := tables.Owners(server, here+1); got != nil {
					t.Errorf("owners in another namespace are %v", got)
				}
				later(tables, interval)
				<-time.NewTimer(staleAfter + 1).C
				if got := tables.Owners(server, here); got != nil {
					t.Errorf("owners by an old look are %v", got)
				}
			})
		})
	}
}

// TestHolderEnds ends holders one by one; another process takes a number over.
func TestHolderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		proc := host()
		tables.proc = proc
		tables.lookNow()
		changed := tables.Changed()
		later(tables, interval)
		select {
		case <-changed:
			t.Error("the same look again is said to be a change")
		default:
		}

		remove(proc, "11")
		process(proc, 11, "imap-login", "/usr/lib/dovecot/imap-login") // holds nothing
		proc["11/stat"].Data = statOf(11, "imap-login", 10, 5000)
		later(tables, interval)
		if got := pids(tables.Owners(server, here)); !same(got, 10) {
			t.Errorf("owners are %v after one ended, want 10", got)
		}
		select {
		case <-changed:
		default:
			t.Error("the end of a holder is no change")
		}

		// The last one hands over to one that no search has seen.
		remove(proc, "10")
		process(proc, 30, "dovecot", "/usr/sbin/dovecot", 1)
		later(tables, interval)
		if got := pids(tables.Owners(server, here)); !same(got, 30) {
			t.Errorf("owners are %v after a handover, want 30", got)
		}
	})
}

// TestHolderLetsGo: a search sees a child of init between its fork and its exec,
// with all that init holds. What it becomes then is somebody's session.
func TestHolderLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		proc := host()
		process(proc, 40, "systemd", "/usr/lib/systemd/systemd", 1)
		tables.proc = proc
		tables.lookNow()
		if got := pids(tables.Owners(server, here)); !same(got, 10, 11, 40) {
			t.Errorf("owners are %v", got)
		}
		process(proc, 40, "bash", "/usr/bin/bash")
		delete(proc, "40/fd/3")
		later(tables, interval)
		if got := pids(tables.Owners(server, here)); !same(got, 10, 11) {
			t.Errorf("owners are %v, and one of them holds it no more", got)
		}
	})
}

// TestHolderBecomesAnother: a search sees who is to serve a listener of init's
// before its exec.
func TestHolderBecomesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 100)}})
		proc := host()
		process(proc, 40, "(proxyd)", "/usr/lib/systemd/systemd-executor", 100)
		tables.proc = proc
		tables.lookNow()
		process(proc, 40, "systemd-socket-", "/usr/lib/systemd/systemd-socket-proxyd", 100)
		later(tables, interval)
		if ok, reason := tables.Check(server, here); ok || !strings.Contains(reason, "only forwards: systemd-socket-proxyd") {
			t.Errorf("%v because %q", ok, reason)
		}
	})
}

// TestSearchAfterAnEnd expects that new holders are found soon after an old one
// ended, but not by a search at each end.
func TestSearchAfterAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		proc := host()
		tables.proc = proc
		tables.lookNow()
		remove(proc, "11")
		process(proc, 12, "imap-login", "/usr/lib/dovecot/imap-login", 1)
		later(tables, interval)
		if got := pids(tables.Owners(server, here)); !same(got, 10) {
			t.Errorf("owners are %v: searched at once", got)
		}
		later(tables, researchInterval)
		if got := pids(tables.Owners(server, here)); !same(got, 10, 12) {
			t.Errorf("owners are %v, want the new one too", got)
		}
	})
}

// TestInitPassesOn has init start a program with the first connection to a listener
// of its own (systemd.socket(5)): one that only forwards, or a mail server.
func TestInitPassesOn(t *testing.T) {
	for program, want := range map[string]string{
		"systemd-socket-proxyd": "only forwards", "dovecot": "",
	} {
		synctest.Test(t, func(t *testing.T) {
			tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 100)}})
			proc := host()
			tables.proc = proc
			tables.lookNow()
			process(proc, 30, program[:min(len(program), nameLimit)], "/usr/lib/"+program, 100)
			if ok, reason := tables.Check(server, here); ok || !strings.Contains(reason, "alone holds") {
				t.Errorf("%s: the first connection: %v because %q", program, ok, reason)
			}
			later(tables, interval) // as somebody asked
			if ok, reason := tables.Check(server, here); ok != (want == "") || !strings.Contains(reason, want) {
				t.Errorf("%s: a later one: %v because %q, want %q", program, ok, reason, want)
			}
		})
	}
}

// TestSearchesForWhoConnects: who connects to a listener that init alone holds has its holders
// searched, for a twentieth of the time.
func TestSearchesForWhoConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 100 * time.Millisecond
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 100)}})
		tables.proc = slowProc{tables.proc, takes}
		defer run(t, tables)()
		began := make(map[time.Time]bool)
		for end := time.Now().Add(searchInterval / 2); time.Now().Before(end); {
			<-time.After(takes)
			tables.Check(server, here)
			tables.looking.Lock()
			began[tables.searched] = true
			tables.looking.Unlock()
		}
		if n, most := len(began), int(searchInterval/2/(askedCost*takes))+2; n < most/2 || n > most {
			t.Errorf("%d searches, want at most %d", n, most)
		}
	})
}

// TestWhoStartsIsNotStarted: what holds a listener for programs that it starts is no program
// to be believed, in a container, of a user, between fork and exec, or as a script that
// becomes a forwarder later.
func TestWhoStartsIsNotStarted(t *testing.T) {
	for _, holder := range []struct{ comm, exe string }{
		{"systemd", "/usr/lib/systemd/systemd"},
		{"systemd", ""}, // which may not be seen
		{"(dovecot)", "/usr/lib/systemd/systemd"},
		{"(dovecot)", "/usr/lib/systemd/systemd-executor"},
		{"dovecot", "/usr/lib/systemd/systemd (deleted)"},
		{"start-proxy.sh", "/usr/bin/dash"},
		{"sh", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 100)}})
			proc := host()
			process(proc, 30, holder.comm, holder.exe, 100)
			tables.proc = proc
			tables.lookNow()
			if belief, reason := tables.CheckListener(server, here, anyListener); belief != authz.Undecided || !strings.Contains(reason, "alone holds") {
				t.Errorf("%v: %v because %q", holder, belief, reason)
			}
			delete(proc, "1/fd/3")
			later(tables, searchInterval)
			if belief, reason := tables.CheckListener(server, here, anyListener); belief != authz.Undecided || !strings.Contains(reason, "(pid 30) alone holds") {
				t.Errorf("%v, and not init: %v because %q", holder, belief, reason)
			}
		})
	}
}

func TestServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{
			listener("0.0.0.0:143", 0, 1), listener("[::]:143", 1000, 2), listener("192.0.2.1:143", 0, 3),
		}})
		tables.lookNow()
		got := tables.Servers()
		if len(got) != 1 || got[0].Local != netip.MustParseAddrPort("0.0.0.0:143") {
			t.Errorf("servers are %+v, want only Dovecot's listener", got)
		}
	})
}

package sockdiag

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz"
)

func TestCheck(t *testing.T) {
	v6only := listener("[::]:143", 0, 3)
	v6only.V6Only = true
	for _, test := range []struct {
		name      string
		listeners []Socket
		server    string
		netns     uint64
		want      string // part of the reason, "" if it is believed
	}{
		{"nobody listens", nil, "192.0.2.1:143", here, "nobody is known to listen"},
		{"another address", []Socket{listener("192.0.2.2:143", 0, 1)}, "192.0.2.1:143", here, "nobody is known"},
		{"another port", []Socket{listener("0.0.0.0:110", 0, 1)}, "192.0.2.1:143", here, "nobody is known"},
		{"another namespace", []Socket{listener("0.0.0.0:143", 0, 1)}, "192.0.2.1:143", 7, "nobody is known"},
		{"IPv4 listener, IPv6 client", []Socket{listener("0.0.0.0:143", 0, 1)}, "[2001:db8::1]:143", here, "nobody is known"},
		{"IPv6-only listener, IPv4 client", []Socket{v6only}, "192.0.2.1:143", here, "nobody is known"},
		{"owner", []Socket{listener("0.0.0.0:143", 1000, 1)}, "192.0.2.1:143", here, "belongs to uid 1000"},
		{"nobody holds it", []Socket{listener("0.0.0.0:143", 0, 99)}, "192.0.2.1:143", here, "no process is seen"},
		{"docker-proxy", []Socket{listener("0.0.0.0:143", 0, 3)}, "192.0.2.1:143", here, "only forwards: docker-proxy (pid 20)"},
		{"forwarder under another name", []Socket{listener("0.0.0.0:143", 0, 4)}, "192.0.2.1:143", here, "only forwards: socat (pid 21)"},
		{"cut name", []Socket{listener("0.0.0.0:143", 0, 5)}, "192.0.2.1:143", here, "only forwards: systemd-socket- (pid 22)"},
		{"init alone", []Socket{listener("0.0.0.0:143", 0, 100)}, "192.0.2.1:143", here, "systemd (pid 1) alone holds"},
		{
			"a listener of init's on the same port",
			[]Socket{listener("192.0.2.1:143", 0, 1), listener("0.0.0.0:143", 0, 100)},
			"192.0.2.1:143", here, "systemd (pid 1) alone holds",
		},
		{"shared with a forwarder", []Socket{listener("0.0.0.0:143", 0, 7)}, "192.0.2.1:143", here, "only forwards: socat (pid 25)"},
		{
			"a forwarder on the same port",
			[]Socket{listener("192.0.2.1:143", 0, 1), listener("0.0.0.0:143", 0, 3)},
			"192.0.2.1:143", here, "only forwards",
		},
		{
			"a dual-stack forwarder on the same port",
			[]Socket{listener("0.0.0.0:143", 0, 1), listener("[::]:143", 0, 3)},
			"192.0.2.1:143", here, "only forwards",
		},
		{"Dovecot", []Socket{listener("0.0.0.0:143", 0, 1)}, "192.0.2.1:143", here, ""},
		{"mail proxy", []Socket{listener("192.0.2.1:143", 8, 6)}, "192.0.2.1:143", here, ""},
		{"dual stack", []Socket{listener("[::]:143", 0, 2)}, "192.0.2.1:143", here, ""},
		{"IPv6", []Socket{listener("[::]:143", 0, 2)}, "[2001:db8::1]:143", here, ""},
		{"an IPv6-only forwarder besides", []Socket{listener("0.0.0.0:143", 0, 1), v6only}, "192.0.2.1:143", here, ""},
		{"a forwarder on another address", []Socket{listener("192.0.2.1:143", 0, 1), listener("192.0.2.2:143", 0, 3)}, "192.0.2.1:143", here, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tables := tablesOf(&fakeTables{sockets: test.listeners})
				tables.lookNow()
				ok, reason := tables.Check(netip.MustParseAddrPort(test.server), test.netns)
				if ok != (test.want == "") || !strings.Contains(reason, test.want) || ok != (reason == "") {
					t.Errorf("got %v because %q, want %q", ok, reason, test.want)
				}
			})
		})
	}
}

// What is no for good, and what may be a yes when it is asked again.
func TestBelief(t *testing.T) {
	proc := host()
	for _, test := range []struct {
		name      string
		listeners []Socket
		cookie    uint64
		err       error
		age       time.Duration
		want      authz.Belief
	}{
		{"Dovecot", []Socket{listener("0.0.0.0:143", 0, 1)}, anyListener, nil, 0, authz.Believed},
		{"a stranger's", []Socket{listener("0.0.0.0:143", 1000, 1)}, anyListener, nil, 0, authz.Disbelieved},
		{"a forwarder's", []Socket{listener("0.0.0.0:143", 0, 3)}, anyListener, nil, 0, authz.Disbelieved},
		{"shared with a forwarder", []Socket{listener("0.0.0.0:143", 0, 7)}, anyListener, nil, 0, authz.Disbelieved},
		{
			"init's, and another's that is a forwarder's",
			[]Socket{listener("192.0.2.1:143", 0, 100), listener("0.0.0.0:143", 0, 3)},
			anyListener, nil, 0, authz.Disbelieved,
		},
		{"for any host", []Socket{{Local: netip.MustParseAddrPort("0.0.0.0:143"), State: tcpListen, Inode: 99, transparent: true}}, anyListener, nil, 0, authz.Disbelieved},
		{"nobody's", nil, anyListener, nil, 0, authz.Undecided},
		{"another's, with its cookie", []Socket{listener("0.0.0.0:143", 0, 1)}, 7, nil, 0, authz.Undecided},
		{"that no process is seen to hold", []Socket{listener("0.0.0.0:143", 0, 99)}, anyListener, nil, 0, authz.Undecided},
		{"init's", []Socket{listener("0.0.0.0:143", 0, 100)}, anyListener, nil, 0, authz.Undecided},
		{"of a look that failed", []Socket{listener("0.0.0.0:143", 0, 1)}, anyListener, errors.New("no answer"), 0, authz.Undecided},
		{"of an old look", []Socket{listener("0.0.0.0:143", 0, 1)}, anyListener, nil, staleAfter + 1, authz.Undecided},
	} {
		synctest.Test(t, func(t *testing.T) {
			tables := tablesOf(&fakeTables{sockets: test.listeners, err: test.err})
			tables.proc = proc
			tables.lookNow()
			<-time.After(test.age)
			if got, reason := tables.CheckListener(server, here, test.cookie); got != test.want || (reason == "") != (got == authz.Believed) {
				t.Errorf("%s: %v because %q, want %v", test.name, got, reason, test.want)
			}
		})
	}
}

var server = netip.MustParseAddrPort("192.0.2.1:143")

func TestCheckWaitsForAnUnknownListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{}
		tables := tablesOf(f)
		tables.lookNow()
		defer run(t, tables)()
		synctest.Wait()

		// The server starts, and a client is there at once.
		f.sockets = []Socket{listener("0.0.0.0:143", 0, 1)}
		start := time.Now()
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed because %q", reason)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestCheckDoesNotWaitLongOrOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{})
		tables.lookNow() // and nobody looks again
		start := time.Now()
		for i := range 100 {
			if belief, _ := tables.CheckListener(server, here, uint64(i)); belief == authz.Believed {
				t.Fatal("believed a listener that nobody saw")
			}
			if waited := time.Since(start); waited > patience {
				t.Fatalf("waited %v in %d checks", waited, i+1)
			}
		}
	})
}

// TestCheckDoesNotWaitForWhoIsNotSought: nobody asks who holds a stranger's listener.
func TestCheckDoesNotWaitForWhoIsNotSought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 1000, 1)}})
		tables.lookNow()
		start := time.Now()
		tables.Check(server, here)
		if waited := time.Since(start); waited > 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestOldSnapshotIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		tables.lookNow()
		timer := time.NewTimer(staleAfter)
		<-timer.C
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed after %v: %s", staleAfter, reason)
		}
		timer.Reset(1)
		<-timer.C
		ok, reason := tables.Check(server, here)
		if ok || !strings.Contains(reason, "was not looked at") {
			t.Errorf("got %v because %q", ok, reason)
		}
	})
}

func TestFailedLookIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}}
		tables := tablesOf(f)
		tables.lookNow()
		f.err = errors.New("no answer")
		tables.lookNow()
		ok, reason := tables.Check(server, here)
		if ok || !strings.Contains(reason, "no answer") {
			t.Errorf("got %v because %q", ok, reason)
		}
		f.err = nil
		tables.lookNow()
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed although the tables answer again: %s", reason)
		}
	})
}

// TestSearchesSeldom counts on how often the tables look at all open files.
func TestSearchesSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}}
		tables := tablesOf(f)
		defer run(t, tables)()
		searches := func(d time.Duration) int {
			n, last := 0, time.Time{}
			for end := time.Now().Add(d); time.Now().Before(end); {
				timer := time.NewTimer(interval)
				<-timer.C
				synctest.Wait()
				tables.looking.Lock()
				if !tables.searched.Equal(last) {
					n, last = n+1, tables.searched
				}
				tables.looking.Unlock()
			}
			return n
		}
		if n := searches(10 * searchInterval); n > 11 {
			t.Errorf("%d searches in %v", n, 10*searchInterval)
		}
		if f.asked < 100 {
			t.Errorf("looked at the listeners only %d times", f.asked)
		}
	})
}

// TestCheckConnection looks a second before the connection is opened, if not told
// otherwise.
func TestCheckConnection(t *testing.T) {
	client := netip.MustParseAddrPort("192.0.2.7:50000")
	accepted := Socket{Local: server, Remote: client, State: tcpEstablished, UID: 97}
	bound := func(s Socket, device uint32) Socket { s.device = device; return s }
	transparent := func(s Socket) Socket { s.transparent = true; return s }
	for _, test := range []struct {
		name    string
		sockets []Socket
		err     error
		later   func(*fakeTables) // what has changed when it is asked
		opened  time.Duration     // since the look
		want    string
	}{
		{"no such connection", []Socket{listener("0.0.0.0:143", 0, 1)}, nil, nil, time.Second, "no socket of this host"},
		{"nobody listens", []Socket{accepted}, nil, nil, time.Second, "nobody is known to listen"},
		{"listener of somebody", []Socket{accepted, listener("0.0.0.0:143", 1000, 1)}, nil, nil, time.Second, "belongs to uid 1000"},
		{"forwarder", []Socket{accepted, listener("0.0.0.0:143", 0, 3)}, nil, nil, time.Second, "only forwards"},
		{"no answer", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, errors.New("no answer"), nil, time.Second, "no answer"},
		{"older than its listener", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, nil, -time.Second, "not known to be older"},
		{"of when its listener was looked for", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, nil, -time.Millisecond, "not known to be older"},
		{"another listens", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, func(f *fakeTables) {
			f.sockets[1] = listener("0.0.0.0:143", 0, 2)
		}, time.Second, "not known to be older"},
		{"one more listens", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, func(f *fakeTables) {
			f.sockets = append(f.sockets, listener("192.0.2.1:143", 0, 2))
		}, time.Second, "not known to be older"},
		{"nobody listens any more", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, func(f *fakeTables) {
			f.sockets = f.sockets[:1]
		}, time.Second, "nobody listens on"},
		{"of another device", []Socket{bound(accepted, 2), bound(listener("0.0.0.0:143", 0, 1), 3)}, nil, nil, time.Second, "no socket of this host"},
		{"of a device, and a listener of none", []Socket{bound(accepted, 2), listener("0.0.0.0:143", 0, 1)}, nil, nil, time.Second, "no socket of this host"},
		{"of the listener's device", []Socket{bound(accepted, 2), bound(listener("0.0.0.0:143", 0, 1), 2)}, nil, nil, time.Second, ""},
		{"of a transparent listener elsewhere", []Socket{transparent(accepted), listener("0.0.0.0:143", 0, 1)}, nil, nil, time.Second, "a transparent proxy's"},
		{"of a transparent listener for all hosts", []Socket{transparent(accepted), transparent(listener("0.0.0.0:143", 0, 1))}, nil, nil, time.Second, "for other hosts"},
		{"of a transparent listener for one address", []Socket{transparent(accepted), transparent(listener("192.0.2.1:143", 0, 1))}, nil, nil, time.Second, ""},
		{"accepted by a login process", []Socket{accepted, listener("0.0.0.0:143", 0, 1)}, nil, nil, time.Second, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &fakeTables{sockets: slices.Clone(test.sockets), err: test.err, wait: 10 * time.Millisecond}
				tables := tablesOf(fake)
				tables.lookNow()
				opened := time.Now().Add(test.opened)
				time.Sleep(2 * time.Second)
				tables.lookNow() // it is the same listener
				if test.later != nil {
					test.later(fake)
				}
				ok, reason := confirms(tables, authz.Conn{Client: client, Server: server}, opened)
				if ok != (test.want == "") || !strings.Contains(reason, test.want) {
					t.Errorf("got %v because %q, want %q", ok, reason, test.want)
				}
			})
		})
	}
}

// TestFailedSearchIsNotRepeatedAtOnce has more open files than are looked at:
// nothing is believed then, and the search is not made at every look.
func TestFailedSearchIsNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		tables.fileLimit = 5
		tables.lookNow()
		searched := tables.searched
		timer := time.NewTimer(interval)
		<-timer.C
		tables.lookNow()
		if !tables.searched.Equal(searched) {
			t.Error("searched again at the next look")
		}
		ok, reason := tables.Check(server, here)
		if ok || !strings.Contains(reason, errTooManyFiles.Error()) {
			t.Errorf("got %v because %q", ok, reason)
		}
		timer.Reset(searchInterval)
		<-timer.C
		tables.fileLimit = fileLimit
		tables.lookNow()
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed after a good search: %s", reason)
		}
	})
}

func TestHoldersAreBounded(t *testing.T) {
	inodes := map[uint32]bool{1: true}
	if _, err := holders(host(), inodes, 5); !errors.Is(err, errTooManyFiles) {
		t.Errorf("error is %v, want %v", err, errTooManyFiles)
	}
	found, err := holders(host(), inodes, 1000)
	if err != nil || len(found) != 1 || len(found[1]) != 2 {
		t.Errorf("holders are %v, %v; want the two of Dovecot", found, err)
	}
}

// TestUsersOpenWhatTheyLike: nobody but root can make a search fail by open files, nor
// hide himself by them.
func TestUsersOpenWhatTheyLike(t *testing.T) {
	const limit = 400
	proc := host()
	greedy := func(pid, inode, files int) {
		process(proc, pid, "greedy", "/usr/bin/greedy", inode)
		dir := fmt.Sprint(pid)
		proc[dir+"/status"].Data = []byte("Name:\tUid:\nUid:\t1000\t0\t0\t0\n")
		for i := range files {
			proc[fmt.Sprintf("%s/fd/%d", dir, 100+i)] = proc[dir+"/fd/0"]
		}
	}
	greedy(5, 1, 10)
	greedy(6, 98, 2*limit)
	greedy(7, 98, 2*limit)
	greedy(99, 99, 3)
	found, err := holders(proc, map[uint32]bool{1: true, 7: true, 98: true, 99: true}, limit)
	if err != nil || !same(pids(found[1]), 10, 11, 5) || !same(pids(found[7]), 24, 25) || found[98] != nil || found[99] != nil {
		t.Errorf("holders are %v, %v", found, err)
	}
	greedy(8, 98, processFiles+1)
	if fds, err := descriptors(proc, "8"); err != nil || len(fds) != processFiles {
		t.Errorf("%d descriptors, %v", len(fds), err)
	}
}

// TestGuestsOpenWhatTheyLike: root of a container, and whatever users he makes of himself,
// can make no search fail either, nor long, nor hide who else holds a listener.
func TestGuestsOpenWhatTheyLike(t *testing.T) {
	const limit = 400
	proc := host()
	in := func(pid int, namespace string, user, inode, files int) {
		process(proc, pid, "guest", "/usr/bin/guest", inode)
		dir := fmt.Sprint(pid)
		proc[dir+"/status"].Data = fmt.Appendf(nil, "Uid:\t%d\t0\t0\t0\n", user)
		for _, kind := range []string{"pid", "user"} {
			proc[dir+"/ns/"+kind] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: fmt.Appendf(nil, "%s:[%s]", kind, namespace)}
		}
		for i := range files {
			proc[fmt.Sprintf("%s/fd/%d", dir, 100+i)] = proc[dir+"/fd/0"]
		}
	}
	in(2, "1", 0, 1, 10)
	for user := range 9 {
		in(30+user, "1", user, 98, 2*limit)
	}
	in(40, "2", 0, 1, 10) // another, who bears no blame
	for guest := range 9 {
		in(50+guest, fmt.Sprint(guest+10), 0, 97, 80)
	}
	in(60, "3", 0, 99, 10) // all guests together have no room any more
	in(9, "4", 0, 7, 10)   // on this host's side, to all appearance
	proc["self/ns/pid"], proc["self/ns/user"] = proc["9/ns/pid"], proc["9/ns/user"]
	found, err := holders(proc, map[uint32]bool{1: true, 7: true, 98: true, 99: true}, limit)
	if err != nil || !same(pids(found[1]), 10, 11, 2, 40) || !same(pids(found[7]), 24, 25, 9) || found[98] != nil || found[99] != nil {
		t.Errorf("holders are %v, %v", found, err)
	}
}

func TestKnownForwarder(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, "dovecot": false, "nginx": false, "haproxy": false, "docker": false, "socat2": false, "systemd": false,
		"docker-prox": false, "containerd-shi": false, "imap-login-very": false,
		"docker-proxy": true, "socat": true, "socat1": true, "sslh": true, "sslh-select": true, "rootlesskit": true, "systemd-socket-": true, "containerd-shim": true,
		"qemu-system-x86": true, "qemu-kvm": true, "qemu-img": false, "sshd": true, "dropbear": true,
	} {
		if got := knownForwarder(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// stingy is a /proc of which some files cannot be opened now.
type stingy struct {
	fstest.MapFS
	refuse string
}

func (s *stingy) Open(name string) (fs.File, error) {
	if name == s.refuse {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EMFILE}
	}
	return s.MapFS.Open(name)
}

func (s *stingy) ReadFile(name string) ([]byte, error) {
	if name == s.refuse {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EMFILE}
	}
	return s.MapFS.ReadFile(name)
}

func (s *stingy) ReadLink(name string) (string, error) {
	if name == s.refuse {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: unix.ENOMEM}
	}
	return s.MapFS.ReadLink(name)
}

func (s *stingy) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == s.refuse {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EMFILE}
	}
	return s.MapFS.ReadDir(name)
}

// TestHolderThatCannotBeSeenNow: whoever could not be looked at may be a forwarder, and
// those who are not are believed again as soon as that is known.
func TestHolderThatCannotBeSeenNow(t *testing.T) {
	for _, refuse := range []string{".", "25/fd", "25/fd/3", "25/stat", "24/fd"} {
		t.Run(refuse, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 7)}})
				proc := &stingy{MapFS: host(), refuse: refuse}
				tables.proc = proc
				tables.lookNow()
				if ok, reason := tables.Check(server, here); ok || !strings.Contains(reason, "who listens on") {
					t.Errorf("got %v because %q", ok, reason)
				}
				remove(proc.MapFS, "25")
				proc.refuse = ""
				later(tables, interval)
				if ok, reason := tables.Check(server, here); !ok {
					t.Errorf("not believed at the next look: %s", reason)
				}
			})
		})
	}
}

// TestHolderThatComesLate: a server becomes a daemon while it is searched for.
func TestHolderThatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		proc := host()
		remove(proc, "10")
		remove(proc, "11")
		tables.proc = proc
		tables.lookNow()
		process(proc, 30, "dovecot", "/usr/sbin/dovecot", 1)
		later(tables, researchInterval)
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed %v later: %s", researchInterval, reason)
		}
	})
}

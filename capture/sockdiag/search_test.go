package sockdiag

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relaygate/authz"
)

// slowProc is a host with so many open files that to search them takes long.
type slowProc struct {
	fs.FS
	takes time.Duration
}

func (s slowProc) ReadLink(name string) (string, error)   { return fs.ReadLink(s.FS, name) }
func (s slowProc) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(s.FS, name) }

func (s slowProc) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "." {
		<-time.NewTimer(s.takes).C
	}
	return fs.ReadDir(s.FS, name)
}

// TestSlowSearch has searches take longer than a snapshot is believed: that is for the
// listeners that were never sought alone.
func TestSlowSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}}
		tables := tablesOf(f)
		tables.lookNow()
		tables.proc = slowProc{tables.proc, 3 * staleAfter}
		defer run(t, tables)()
		wait := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); {
				<-time.NewTimer(interval).C
				synctest.Wait()
				if ok, reason := tables.Check(server, here); !ok {
					t.Fatalf("not believed because %q", reason)
				}
			}
		}
		wait(3 * searchInterval)
		f.sockets = append(f.sockets, listener("192.0.2.2:143", 0, 2))
		wait(2 * staleAfter)
		other := netip.MustParseAddrPort("192.0.2.2:143")
		if ok, reason := tables.Check(other, here); ok || !strings.Contains(reason, "is not known yet") {
			t.Errorf("a listener whose holders nobody knows is believed: %v, because %q", ok, reason)
		}
		if list := tables.Unheld(); len(list) != 0 {
			t.Errorf("nobody is seen to hold %v, it says, while they are sought", list)
		}
		wait(6 * staleAfter)
		if ok, reason := tables.Check(other, here); !ok {
			t.Errorf("behind the search it is not believed because %q", reason)
		}
	})
}

// TestListenerThatComesWithinASearch: a connection to it waits for no more than the next one.
func TestListenerThatComesWithinASearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 100 * time.Millisecond
		f := &fakeTables{}
		tables := tablesOf(f)
		tables.lookNow()
		tables.proc = slowProc{tables.proc, takes}
		defer run(t, tables)()
		synctest.Wait()
		first, second := listener("0.0.0.0:143", 0, 1), listener("[::]:143", 0, 2)
		first.cookie, second.cookie = 7, 8
		begin := time.Now()
		f.sockets = []Socket{first}
		tables.lookSoon()
		<-time.After(takes / 2)
		synctest.Wait()
		f.sockets = []Socket{first, second}
		if belief, reason := tables.CheckListener(server, here, 8); belief != authz.Believed {
			t.Errorf("%v because %q", belief, reason)
		}
		if took := time.Since(begin); took > 2*takes {
			t.Errorf("it took %v, want the time of two searches", took)
		}
	})
}

// TestManyListenersThatAreGone: connections to them, each with another than the one before,
// leave time for those of others.
func TestManyListenersThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{}
		tables := tablesOf(f)
		tables.lookNow()
		f.wait = 5 * time.Millisecond
		defer run(t, tables)()
		synctest.Wait()
		begin, waited := time.Now(), time.Duration(0)
		for cookie := uint64(7); time.Since(begin) < time.Minute; cookie ^= 1 {
			asked := time.Now()
			if belief, reason := tables.CheckListener(server, here, cookie); belief != authz.Undecided {
				t.Fatalf("%v because %q", belief, reason)
			}
			waited += time.Since(asked)
			<-time.After(10 * time.Millisecond)
		}
		if took := time.Since(begin); waited == 0 || waited > took/vainCost {
			t.Errorf("of %v, %v were spent waiting", took, waited)
		}
	})
}

// TestSearchBehindOneThatFailed: a host of many files on which descriptors were short for a
// moment believes its servers again soon.
func TestSearchBehindOneThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := tablesOf(&fakeTables{sockets: []Socket{listener("0.0.0.0:143", 0, 1)}})
		const takes = time.Second
		proc := &stingy{MapFS: host(), refuse: "24/fd"}
		tables.proc = slowProc{proc, takes}
		tables.lookNow()
		proc.refuse = ""
		later(tables, 5*takes)
		if ok, _ := tables.Check(server, here); ok {
			t.Error("it is searched all the time")
		}
		later(tables, 5*takes)
		if ok, reason := tables.Check(server, here); !ok {
			t.Errorf("not believed because %q", reason)
		}
	})
}

// Looks at listeners that very many processes hold leave time for all else, and the last
// one is still believed when the next ends.
func TestLooksRest(t *testing.T) {
	for _, tt := range []struct{ took, want time.Duration }{
		{0, interval},
		{10 * time.Millisecond, interval},
		{100 * time.Millisecond, 2 * time.Second},
		{time.Second, longest - time.Second},
		{time.Hour, interval},
	} {
		if got := rest(tt.took); got != tt.want {
			t.Errorf("behind a look of %v it rests %v, want %v", tt.took, got, tt.want)
		}
	}
	for took := time.Duration(0); took < (staleAfter-interval)/2; took += 10 * time.Millisecond {
		if until := took + rest(took) + took; until >= staleAfter {
			t.Fatalf("one that takes %v is not believed for the %v until there is another", took, until)
		}
	}
}

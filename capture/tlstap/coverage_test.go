package tlstap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"relaygate/authz"
)

func TestCoverageWords(t *testing.T) {
	ssl := openSSL
	for _, test := range []struct {
		name  string
		files map[string][]symbol
		goes  bool // the executable is Go's
		want  string
		seen  bool
	}{
		{"nothing", nil, false, "maild (pid 10) is not read: no TLS library was found: its TLS may be built in", false},
		{"OpenSSL", map[string][]symbol{"libssl.so.3": ssl}, false, "maild (pid 10) is read through /", true},
		{"NSS", map[string][]symbol{"libnss3.so": nil}, false, "it uses NSS", false},
		{"NSS's libssl3", map[string][]symbol{"libssl3.so": nil}, false, "it uses NSS", false},
		{"wolfSSL", map[string][]symbol{"libwolfssl.so.35": nil}, false, "it uses wolfSSL", false},
		{"Go", nil, true, "a Go program", false},
		{"libssl without symbols", map[string][]symbol{"libssl.so.3": nil}, false, "not both a function that reads", false},
		{"OpenSSL and NSS", map[string][]symbol{"libssl.so.3": ssl, "libnss3.so": nil}, false, "libssl.so.3", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			var files []string
			for name, symbols := range test.files {
				files = append(files, w.library(name, symbols...))
			}
			if test.goes {
				path := w.library("maild")
				must(t, os.WriteFile(path, crafted{section: ".go.buildinfo"}.bytes(t), 0o644))
				files = append(files, path)
			}
			w.process(10, 1, "maild", "/", files...)
			w.tables.set(held(imaps, 1, 10))
			w.scan(0)
			all := w.finder.Coverage()
			if len(all) != 1 || all[0].Seen() != test.seen || !strings.Contains(all[0].String(), test.want) {
				t.Fatalf("coverage is %v, want %q", all, test.want)
			}
			if why := w.finder.Explain(connection()); !test.seen && why != all[0].String() {
				t.Errorf("explained by %q", why)
			}
		})
	}
}

func TestCoverageNamesAndCounts(t *testing.T) {
	w := newWorld(t)
	ssl := w.library("libssl.so.3", openSSL...)
	w.process(10, 1, "dovecot", "/")
	w.process(11, 10, "imap-login", "/", ssl)
	w.process(12, 10, "pop3-login", "/", ssl)
	w.process(13, 10, "imap", "/")
	w.process(20, 1, "httpd", "/", ssl)
	w.process(21, 1, "httpd", "/", ssl)
	w.tables.set(held(imaps, 1, 10, 11), held(pop3s, 2, 10, 12))
	w.scan(0)
	for _, read := range []bool{true, true, false} {
		w.finder.Judged(connection(), read)
	}
	w.finder.Judged(authz.Conn{Server: imaps, Netns: 7}, true) // somebody else's
	select {
	case <-w.finder.kick:
	default:
		t.Error("nobody looks for the library of an unread connection")
	}
	all := w.finder.Coverage()
	if len(all) != 1 {
		t.Fatalf("coverage is %+v", all)
	}
	s := all[0]
	if s.PID != 10 || s.Name != "maild" || s.Processes != 4 || s.Handshakes != 3 || s.Read != 2 || !s.Seen() {
		t.Errorf("server is %+v", s)
	}
	if len(s.Listeners) != 2 || len(s.Libraries) != 1 {
		t.Fatalf("server is %+v", s)
	}
	l := s.Libraries[0]
	slices.Sort(l.Users)
	if l.Path != w.inside(ssl) || !l.Attached || l.Recognised || !slices.Equal(l.Users, []string{"imap-login", "pop3-login"}) || !slices.Equal(l.Others, []string{"httpd"}) {
		t.Errorf("library is %+v", l)
	}
	if why := w.finder.Explain(connection()); !strings.Contains(why, "libssl.so.3 is watched, but no handshake was recognised") {
		t.Errorf("explained by %q", why)
	}
	w.tap.attached[0].found = true
	w.scan(interval)
	if why := w.finder.Explain(connection()); !strings.Contains(why, "began before") {
		t.Errorf("explained by %q", why)
	}

	w.tables.set()
	w.scan(interval)
	if len(w.finder.counts) != 0 {
		t.Error("a server that is gone is still counted")
	}
	if why := w.finder.Explain(connection()); why != "nobody is known to listen" {
		t.Errorf("explained by %q", why)
	}
}

// Some process of the host hangs with its mappings locked: who asks how the servers are
// is answered, at first without who else uses their libraries.
func TestCoverageWaitsForNoProcess(t *testing.T) {
	w := newWorld(t)
	ssl := w.library("libssl.so.3", openSSL...)
	w.process(10, 1, "dovecot", "/", ssl)
	w.process(20, 1, "httpd", "/", ssl)
	w.tables.set(held(imaps, 1, 10))
	w.scan(0)
	path := filepath.Join(w.proc, "20", "maps")
	maps, err := os.ReadFile(path)
	must(t, err)
	must(t, os.Remove(path))
	must(t, syscall.Mkfifo(path, 0o600))
	others := func() []string {
		all := w.finder.Coverage()
		if len(all) != 1 || len(all[0].Libraries) != 1 {
			t.Fatalf("coverage is %+v", all)
		}
		return all[0].Libraries[0].Others
	}
	for range 2 { // the second finds the first one's search
		if got := others(); len(got) > 0 {
			t.Errorf("others are %q, which cannot be read yet", got)
		}
	}
	locked, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0) // ENXIO if nobody reads
	must(t, err)
	_, err = locked.Write(maps)
	must(t, errors.Join(err, locked.Close()))
	if got := others(); !slices.Equal(got, []string{"httpd"}) {
		t.Errorf("others are %q", got)
	}
}

// A server can have a library and use another, which nobody sees.
func TestCoverageOfAnotherLibrary(t *testing.T) {
	w := newWorld(t)
	w.process(10, 1, "maild", "/", w.library("libssl.so.3", openSSL...))
	w.tables.set(held(imaps, 1, 10))
	for i, test := range []struct {
		read bool
		why  string
	}{
		{false, ""},
		{false, ""},
		{false, ""},
		{false, ""},
		{false, "none of its TLS connections was read so far: its TLS may be built in"},
		{true, ""},
		{false, ""},
	} {
		w.scan(interval)
		w.finder.Judged(connection(), test.read)
		w.scan(interval)
		if s := w.finder.Servers()[0]; s.Seen() != (test.why == "") || !strings.HasPrefix(s.Why, test.why) {
			t.Errorf("after connection %d: %+v, want %q", i+1, s, test.why)
		}
	}
}

func TestCoverageOfInit(t *testing.T) {
	w := newWorld(t)
	w.process(1, 0, "systemd", "/")
	w.process(10, 1, "systemd", "/")
	ofContainer := held(imaps, 1, 1, 10)
	ofContainer.Processes[1].Program = "systemd"
	w.tables.set(ofContainer)
	w.scan(0)
	if got := w.tap.heads(); len(got) > 0 {
		t.Errorf("%v are followed as servers", got)
	}
	all := w.finder.Coverage()
	if len(all) != 1 || all[0].Seen() || !strings.Contains(all[0].Why, "only init") {
		t.Errorf("coverage is %+v", all)
	}
	if why := w.finder.Explain(connection()); !strings.Contains(why, "only init") {
		t.Errorf("explained by %q", why)
	}
}

func TestReadCgroup(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "/"},
		{"root", "0::/\n", "/"},
		{"version 2", "0::/system.slice/a.service\n", "/"},
		{"hybrid", "5:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service"},
		{"hybrid, both", "1:name=systemd:/b\n0::/a\n", "/"},
		{"version 1", "1:name=systemd:/b\n", "/b"},
		{"version 1 without systemd", "1:cpu:/b\n", "/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.write("10/cgroup", test.text)
			if got, err := readCgroup(w.finder.files, 10); err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
